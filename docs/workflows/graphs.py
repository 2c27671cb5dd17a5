"""The workflows: which nodes, wired how, with which settings. `build.py` turns them into what ComfyUI opens."""

from __future__ import annotations

from parts import (
    CLIP,
    HERO_NATIVE,
    SD15,
    ZERO_NATIVE,
    Graph,
    Link,
    Node,
    anchor_edit,
    carried_keys,
    edited_picture,
    flux,
    hero_stage,
    key_sampler,
    load_clip,
    loader,
    note,
    painted_keys,
    saver,
    sd15,
    zero_stage,
)

TINY_START = {"adain_start": False}  # as the bundled UNet advises
HERO = "4. Hero-Stage (off: right-click, Set Group Nodes to Always)"


def demo_cpu() -> Graph:
    """The whole pipeline on the bundled models, measured as `zero2hero demo` measures it."""
    zero_native: dict[str, Link] = {
        "model": ("tiny", "zero_model"),
        "vae": ("tiny", "vae"),
        "conditioning": ("tiny", "zero_conditioning"),
    }
    hero_native: dict[str, Link] = {
        "model": ("tiny", "hero_model"),
        "vae": ("tiny", "vae"),
        "conditioning": ("tiny", "hero_conditioning"),
    }
    edit: Link = ("clip", "reference")
    nodes = {
        "note": note("demo_cpu", 0, 360),
        "tiny": Node("ZeroToHeroTinyModels", 1, tint="model"),
        "clip": Node("ZeroToHeroDemoClip", 1, tint="model"),
        "look": Node("PreviewImage", 1, "The edit", {"images": edit}, height=240, tint="look"),
        **zero_stage(2, zero_native, CLIP, edit, **TINY_START),
        **hero_stage(4, hero_native, CLIP, edit),
        "save": saver(5, ("restore", "restored"), ("clip", "fps"), "zero2hero/demo", "Result"),
    }
    chain = [("clip", "frames"), ("zero", "edited"), ("restore", "restored"), ("clip", "truth")]
    stitched: Link = chain[0]
    for place, picture in enumerate(chain[1:]):
        links, plain = {"image1": stitched, "image2": picture}, {"match_image_size": False}
        nodes[f"beside {place}"] = Node("ImageStitch", 1, links=links, values=plain, row=1)
        stitched = (f"beside {place}", "IMAGE")
    beside = saver(2, stitched, ("clip", "fps"), "zero2hero/demo_beside", "Original, Zero, Hero, truth")
    cross = zero_stage(2, zero_native, CLIP, edit)["zero"]
    cross.title, cross.values = "Plain cross-image attention", {"tokens": "all"} | TINY_START
    swap = {"correspondence": ("matches", "correspondence"), "reference": edit}
    nodes |= {"side by side": beside, "plain": cross, "swap": Node("PixelSwap", 3, links=swap, tint="own")}
    measured = {
        "Hero-Stage": ("restore", "restored"),
        "Zero-Stage": ("zero", "edited"),
        "Plain cross-image attention": ("plain", "edited"),
        "Pixel swap": ("swap", "frames"),
        "Original": ("clip", "frames"),
    }
    for place, (title, frames) in enumerate(measured.items()):
        links = {"frames": frames, "truth": ("clip", "truth"), "mask": ("clip", "mask")}
        links["leave_out"] = ("clip", "anchor_index")
        measure = Node("VideoMetrics", 4 + place // 3, f"Measure: {title}", links, height=100, tint="look")
        nodes[f"measure {title}"] = measure
    for name in ("side by side", "plain", "swap", *(f"measure {title}" for title in measured)):
        nodes[name].row = 1
    return Graph(
        "demo_cpu",
        nodes,
        {
            "Clip, edit and models": ["tiny", "clip", "look"],
            "Zero-Stage": ["matches", "zero"],
            "Hero-Stage": ["trainer", "restore", "save"],
            "Side by side": ["beside 0", "beside 1", "beside 2", "side by side"],
            "Baselines": ["plain", "swap"],
            "Against the truth": [name for name in nodes if name.startswith("measure ")],
        },
    )


def zero_result(column: int) -> Node:
    """The Zero-Stage video, which the graph ends in as long as the Hero-Stage is bypassed."""
    return saver(column, ("zero", "edited"), ("clip", "fps"), "zero2hero/zero", "Zero-Stage video")


def hero_row(edit: Link, prefix: str) -> dict[str, Node]:
    """The lower row: FLUX, the Hero-Stage on it, the result."""
    nodes = flux(1) | hero_stage(2, HERO_NATIVE, CLIP, edit, checkpointing=True)
    nodes["save"] = saver(3, ("restore", "restored"), ("clip", "fps"), prefix, "Result", audio=("clip", "audio"))
    for node in nodes.values():
        node.row = 1
    return nodes


def zero_to_hero() -> Graph:
    """Anchor edit, Zero-Stage and Hero-Stage in one graph."""
    edit: Link = ("edit", "IMAGE")
    first, making, below = sd15(1), anchor_edit(2), hero_row(edit, "zero2hero/hero")
    nodes = {
        "note": note("zero_to_hero_sd15_flux", 0, 400),
        "clip": load_clip(1),
        **first,
        **making,
        **zero_stage(4, ZERO_NATIVE, CLIP, edit),
        "zero save": zero_result(5),
        **below,
    }
    groups = {
        "1. Your clip": ["clip", *first],
        "2. Edit of the anchor": list(making),
        "3. Zero-Stage": ["matches", "zero", "zero save"],
        HERO: list(below),
    }
    return Graph("zero_to_hero_sd15_flux", nodes, groups, bypassed=[HERO])


def zero_stage_only() -> Graph:
    """Zero-Stage on a picture that was edited outside."""
    first, picture = sd15(1), edited_picture(2, "The edited anchor")
    nodes = {
        "note": note("zero_stage_only", 0, 330),
        "clip": load_clip(1),
        **first,
        **picture,
        **zero_stage(3, ZERO_NATIVE, CLIP, ("edit", "IMAGE")),
        "save": saver(4, ("zero", "edited"), ("clip", "fps"), "zero2hero/zero", "Result", audio=("clip", "audio")),
    }
    groups = {"1. Your clip": ["clip", *first], "2. Its edited anchor": list(picture)}
    return Graph("zero_stage_only", nodes, groups | {"3. Zero-Stage": ["matches", "zero", "save"]})


def colorize() -> Graph:
    """A grey clip in the colours of one coloured frame."""
    edit: Link = ("edit", "IMAGE")
    first, picture, below = sd15(1), edited_picture(2, "The coloured anchor"), hero_row(edit, "zero2hero/coloured")
    nodes = {
        "note": note("colorize", 0, 380),
        "clip": load_clip(1),
        **first,
        **picture,
        **zero_stage(3, ZERO_NATIVE, CLIP, edit),
        "zero save": zero_result(4),
        **below,
    }
    groups = {
        "1. Your grey clip": ["clip", *first],
        "2. Its coloured anchor": list(picture),
        "3. Zero-Stage": ["matches", "zero", "zero save"],
        HERO: list(below),
    }
    return Graph("colorize", nodes, groups, bypassed=[HERO])


def rerender_sd15() -> Graph:
    """Key frames painted one after another from a prompt, and the clip carried from them."""
    keys = painted_keys(2, "an oil painting, thick strokes, warm light", {"method": "uniform", "every": 10})
    nodes = {
        "note": note("rerender_sd15", 0, 380),
        "clip": load_clip(1),
        "checkpoint": loader("CheckpointLoaderSimple", 1, "Load Checkpoint (SD 1.5)", {"ckpt_name": SD15}),
        **keys,
        "painted": key_sampler("GuidedKeyFrameSampler", 4, ("checkpoint", "MODEL")),
        **carried_keys(5, "zero2hero/rerender"),
    }
    groups = {
        "1. Your clip": ["clip", "checkpoint"],
        "2. Which frames, and what to paint": list(keys),
        "3. Key frames": ["painted"],
        "4. Carried to all frames": ["carry", "save"],
    }
    return Graph("rerender_sd15", nodes, groups)


def fresco_sd15() -> Graph:
    """Key frames painted together from a prompt, and the clip carried from them."""
    keys = painted_keys(2, "a snowy winter day, photograph", {"method": "adaptive"})
    nodes = {
        "note": note("fresco_sd15", 0, 380),
        "clip": load_clip(1),
        "checkpoint": loader("CheckpointLoaderSimple", 1, "Load Checkpoint (SD 1.5)", {"ckpt_name": SD15}),
        **keys,
        "across": Node("CrossFrameAttention", 4, links={"model": ("checkpoint", "MODEL")}, tint="own"),
        "along": Node("FlowGuidedAttention", 4, links={"model": ("across", "guided")}, tint="own"),
        "features": Node("CorrespondenceFeatures", 4, links={"model": ("along", "guided")}, tint="own"),
        "painted": key_sampler("KeyFrameBatchSampler", 5, ("features", "guided")),
        **carried_keys(6, "zero2hero/fresco"),
    }
    groups = {
        "1. Your clip": ["clip", "checkpoint"],
        "2. Which frames, and what to paint": list(keys),
        "3. What holds them together": ["across", "along", "features"],
        "4. Key frames": ["painted"],
        "5. Carried to all frames": ["carry", "save"],
    }
    return Graph("fresco_sd15", nodes, groups)


def propagate_keyframes() -> Graph:
    """Two frames of a clip, edited outside, carried to all of it without a model."""
    clip = load_clip(1)
    clip.values |= {"short_side": 0, "multiple": 1}
    first, second = (
        Node("LoadImage", 3, f"The {which} edited frame", values={"image": name}, height=220, tint="model")
        for which, name in (("first", "edited_first.png"), ("second", "edited_second.png"))
    )
    frames: Link = ("clip", "frames")
    carry = {"frames": frames, "edits": ("first", "IMAGE"), "more_edits": ("second", "IMAGE")}
    carry["keys"] = ("advice", "key_indices")
    nodes = {
        "note": note("propagate_keyframes", 0, 400),
        "clip": clip,
        "advice": Node("SelectKeyFrames", 2, links={"frames": frames}, values={"count": 2}, height=220, tint="own"),
        "keys": Node(
            "SaveImage",
            2,
            "Save Image: the frames to edit",
            {"images": ("advice", "key_frames")},
            {"filename_prefix": "zero2hero/key"},
            height=200,
        ),
        "first": first,
        "second": second,
        "carry": Node("PropagateKeyFrames", 4, links=carry, height=220, tint="own"),
        "doubtful": Node("MaskToImage", 4, links={"mask": ("carry", "doubt")}),
        "look": Node(
            "PreviewImage", 4, "Doubt: white is unsure", {"images": ("doubtful", "IMAGE")}, height=200, tint="look"
        ),
        "save": saver(5, ("carry", "edited"), ("clip", "fps"), "zero2hero/propagated", "Result", ("clip", "audio")),
    }
    groups = {
        "1. Your clip": ["clip"],
        "2. Which frames to edit": ["advice", "keys"],
        "3. The edited frames": ["first", "second"],
        "4. Carried to all frames": ["carry", "doubtful", "look", "save"],
    }
    return Graph("propagate_keyframes", nodes, groups)


def repair_other_tools() -> Graph:
    """What another tool made of a clip, freed of its drift."""
    clip, made = load_clip(1), load_clip(1)
    for node in (clip, made):
        node.values |= {"short_side": 0, "multiple": 1}
    clip.title, made.title = "Your clip", "Made by another tool"
    made.values |= {"file": "made_by_another_tool.mp4"}
    edit = Node("LoadImage", 2, "The frame that you edited", values={"image": "edited.png"}, height=220, tint="model")
    carry = {"frames": ("clip", "frames"), "edits": ("edit", "IMAGE"), "witness": ("made", "frames")}
    choices = {"keys": "0", "keep_unedited": True, "witness_is": "another tool's result"}
    nodes = {
        "note": note("repair_other_tools", 0, 400),
        "clip": clip,
        "made": made,
        "edit": edit,
        "mend": Node("PropagateKeyFrames", 3, links=carry, values=choices, height=260, tint="own"),
        "save": saver(4, ("mend", "edited"), ("clip", "fps"), "zero2hero/mended", "Result", ("clip", "audio")),
    }
    groups = {
        "1. Your clip, and what a tool made of it": ["clip", "made"],
        "2. Your edit": ["edit"],
        "3. Mended": ["mend", "save"],
    }
    return Graph("repair_other_tools", nodes, groups)


GRAPHS = (
    demo_cpu,
    zero_to_hero,
    zero_stage_only,
    colorize,
    propagate_keyframes,
    repair_other_tools,
    rerender_sd15,
    fresco_sd15,
)
