"""What the workflows are made of: nodes with their links and settings, and the groups of them that come again.

A node takes its place below the one before it in its column; a link names the node it comes from and that node's
output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Link = tuple[str, str]  # node, its output
HUB = "https://huggingface.co"
TINT = {"own": "#233", "model": "#322", "note": "#432", "look": "#232"}


@dataclass
class ModelFile:
    """A model to fetch: its name, where it is, and the folder in models/ that it belongs into."""

    name: str
    url: str
    directory: str


def hub(place: str, directory: str) -> ModelFile:
    """A file of a model hub: repository and path within it."""
    repository, path = place.split(":")
    return ModelFile(path.rsplit("/", 1)[-1], f"{HUB}/{repository}/resolve/main/{path}", directory)


SD15 = hub("Comfy-Org/stable-diffusion-v1-5-archive:v1-5-pruned-emaonly-fp16.safetensors", "checkpoints")
CANNY = hub("comfyanonymous/ControlNet-v1-1_fp16_safetensors:control_v11p_sd15_canny_fp16.safetensors", "controlnet")
FLUX = hub("black-forest-labs/FLUX.1-dev:flux1-dev.safetensors", "diffusion_models")
T5 = hub("comfyanonymous/flux_text_encoders:t5xxl_fp16.safetensors", "text_encoders")
CLIP_L = hub("comfyanonymous/flux_text_encoders:clip_l.safetensors", "text_encoders")
FLUX_VAE = hub("Comfy-Org/Lumina_Image_2.0_Repackaged:split_files/vae/ae.safetensors", "vae")


@dataclass
class Node:
    """One node. links: input -> where it comes from; values: widget -> value; height: of what it shows below its
    widgets, beyond what the front end asks for; files: what it loads, so that the front end can say where to get it."""

    type: str
    column: int
    title: str = ""
    links: dict[str, Link] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    width: int = 320
    height: int = 0
    tint: str = ""
    row: int = 0
    files: list[ModelFile] = field(default_factory=list)


@dataclass
class Graph:
    """A workflow. groups: title -> nodes within its frame, which must be neighbours on the canvas; bypassed: titles of
    groups that the user switches on later."""

    name: str
    nodes: dict[str, Node]
    groups: dict[str, list[str]]
    bypassed: list[str] = field(default_factory=list)


def note(name: str, column: int, height: int, width: int = 400) -> Node:
    """The text beside this file, on the canvas; there lines break where the note ends."""
    text = (Path(__file__).parent / f"{name}.md").read_text(encoding="utf-8").strip()
    text = re.sub(r"\n(?=\S)(?!- |\d\. |\n)|\n +", " ", text.replace("\n\n", "\0")).replace("\0", "\n\n")
    return Node("MarkdownNote", column, "Read me", values={"": text}, width=width, height=height, tint="note")


def loader(type: str, column: int, title: str, files: dict[str, ModelFile]) -> Node:
    """A node that loads model files. files: widget -> file."""
    values: dict[str, Any] = {widget: file.name for widget, file in files.items()}
    return Node(type, column, title, values=values, tint="model", files=list(files.values()))


def empty_prompt(column: int, clip: Link, title: str) -> Node:
    """The empty prompt that both stages work with."""
    return Node("CLIPTextEncode", column, title, {"clip": clip}, {"text": ""}, height=20)


def saver(column: int, frames: Link, fps: Link, prefix: str, title: str, audio: Link | None = None) -> Node:
    """A video file in the output folder."""
    links = {"frames": frames, "fps": fps} | ({"audio": audio} if audio else {})
    return Node("VideoSave", column, title, links, {"filename_prefix": prefix, "fps": 8.0}, height=290)


def zero_stage(
    column: int, native: dict[str, Link], clip: dict[str, Link], reference: Link, **sampling: Any
) -> dict[str, Node]:
    """Matches, and the sampler in the next column. clip: frames and anchor_index."""
    matches = Node("DIFTCorrespondence", column, links=native | clip, height=200, tint="own")
    links = native | {"correspondence": ("matches", "correspondence"), "frames": clip["frames"], "reference": reference}
    sampler = Node("MaskedCiAKSampler", column + 1, links=links, values=sampling, width=380, height=20, tint="own")
    return {"matches": matches, "zero": sampler}


def hero_stage(
    column: int, native: dict[str, Link], clip: dict[str, Link], reference: Link, **training: Any
) -> dict[str, Node]:
    """Training on the anchor's pair, and the restoring of all frames in the next column."""
    pair = native | {"zero_frames": ("zero", "edited"), "frames": clip["frames"]}
    links = pair | {"reference": reference, "anchor_index": clip["anchor_index"]}
    trainer = Node("HeroLoRATrainer", column, links=links, values=training, height=200, tint="own")
    restore = pair | {"hero_lora": ("trainer", "hero_lora")}
    return {"trainer": trainer, "restore": Node("HeroRestore", column + 1, links=restore, height=160, tint="own")}


def sd15(column: int) -> dict[str, Node]:
    """The checkpoint of the Zero-Stage with its empty prompt."""
    return {
        "checkpoint": loader("CheckpointLoaderSimple", column, "Load Checkpoint (SD 1.5)", {"ckpt_name": SD15}),
        "nothing": empty_prompt(column, ("checkpoint", "CLIP"), "Empty prompt (leave it so)"),
    }


def flux(column: int) -> dict[str, Node]:
    """FLUX.1 for the Hero-Stage with its empty prompt."""
    encoders = loader("DualCLIPLoader", column, "", {"clip_name1": T5, "clip_name2": CLIP_L})
    encoders.values["type"] = "flux"
    model = loader("UNETLoader", column, "Load Diffusion Model (FLUX.1)", {"unet_name": FLUX})
    model.values["weight_dtype"] = "fp8_e4m3fn"
    return {
        "flux": model,
        "flux clip": encoders,
        "flux vae": loader("VAELoader", column, "Load VAE (FLUX)", {"vae_name": FLUX_VAE}),
        "flux nothing": empty_prompt(column, ("flux clip", "CLIP"), "Empty prompt of FLUX"),
    }


ZERO_NATIVE: dict[str, Link] = {
    "model": ("checkpoint", "MODEL"),
    "vae": ("checkpoint", "VAE"),
    "conditioning": ("nothing", "CONDITIONING"),
}
HERO_NATIVE: dict[str, Link] = {
    "model": ("flux", "MODEL"),
    "vae": ("flux vae", "VAE"),
    "conditioning": ("flux nothing", "CONDITIONING"),
}
CLIP: dict[str, Link] = {"frames": ("clip", "frames"), "anchor_index": ("clip", "anchor_index")}


def load_clip(column: int) -> Node:
    """The user's video."""
    values = {"file": "my_clip.mp4", "maximum": 48, "short_side": 512, "multiple": 64}
    return Node("VideoLoad", column, values=values, height=300, tint="model")


def anchor_edit(column: int) -> dict[str, Node]:
    """An edit of the anchor in the graph: image to image, held by a ControlNet."""
    control = {"positive": ("prompt", "CONDITIONING"), "negative": ("avoid", "CONDITIONING")}
    control |= {"control_net": ("control", "CONTROL_NET"), "image": ("edges", "IMAGE"), "vae": ("checkpoint", "VAE")}
    sampled = {"model": ("checkpoint", "MODEL"), "latent_image": ("anchor latent", "LATENT")}
    sampled |= {"positive": ("held", "positive"), "negative": ("held", "negative")}
    drawing = {"seed": 1, "control_after_generate": "fixed", "steps": 25, "cfg": 7.0, "denoise": 0.85}
    drawing |= {"sampler_name": "dpmpp_2m", "scheduler": "karras"}
    wished, unwished = "a red vintage sports car, glossy paint, photograph", "blurry, low quality"
    text: Link = ("checkpoint", "CLIP")
    return {
        "prompt": Node(
            "CLIPTextEncode", column, "Prompt: how it should look", {"clip": text}, {"text": wished}, 360, 60
        ),
        "avoid": Node("CLIPTextEncode", column, "Negative prompt", {"clip": text}, {"text": unwished}, 360, 20),
        "edges": Node("Canny", column, "Outlines of the anchor", {"image": ("clip", "anchor")}, width=360),
        "control": loader("ControlNetLoader", column, "", {"control_net_name": CANNY}),
        "held": Node("ControlNetApplyAdvanced", column, links=control, width=360),
        "anchor latent": Node(
            "VAEEncode", column + 1, links={"pixels": ("clip", "anchor"), "vae": ("checkpoint", "VAE")}
        ),
        "drawn": Node("KSampler", column + 1, links=sampled, values=drawing),
        "edit": Node("VAEDecode", column + 1, links={"samples": ("drawn", "LATENT"), "vae": ("checkpoint", "VAE")}),
        "look": Node("PreviewImage", column + 1, "The edit", {"images": ("edit", "IMAGE")}, height=240, tint="look"),
    }


def edited_picture(column: int, title: str) -> dict[str, Node]:
    """A picture that was edited elsewhere, brought to the size of the frames, and the anchor to edit."""
    size = {"image": ("picture", "IMAGE"), "width": ("size", "width"), "height": ("size", "height")}
    shape = {"upscale_method": "lanczos", "width": 512, "height": 512, "crop": "disabled"}
    anchor: Link = ("clip", "anchor")
    prefix = {"filename_prefix": "zero2hero/anchor"}
    return {
        "anchor": Node("SaveImage", column, "Save Image: the anchor to edit", {"images": anchor}, prefix, height=200),
        "picture": Node("LoadImage", column, title, values={"image": "edited_anchor.png"}, height=220, tint="model"),
        "size": Node("GetImageSize", column, "Size of the frames", {"image": ("clip", "frames")}),
        "edit": Node("ImageScale", column, "To the size of the frames", size, shape),
    }


def painted_keys(column: int, wished: str, keys: dict[str, Any]) -> dict[str, Node]:
    """Key frames of the clip, the prompts, and a ControlNet that shows their outlines; two columns. keys: of the
    choice."""
    control = {"positive": ("prompt", "CONDITIONING"), "negative": ("avoid", "CONDITIONING")}
    control |= {"control_net": ("control", "CONTROL_NET"), "image": ("edges", "IMAGE"), "vae": ("checkpoint", "VAE")}
    text: Link = ("checkpoint", "CLIP")
    unwished = "blurry, low quality, deformed"
    # The host's thresholds are shares; 50 and 100 of 255 are what both methods' examples take.
    outlines = {"low_threshold": 0.2, "high_threshold": 0.4}
    return {
        "advice": Node("SelectKeyFrames", column, links={"frames": ("clip", "frames")}, values=keys, tint="own"),
        "edges": Node("Canny", column, "Outlines of the keys", {"image": ("advice", "key_frames")}, outlines),
        "prompt": Node(
            "CLIPTextEncode", column + 1, "Prompt: how it should look", {"clip": text}, {"text": wished}, 360, 60
        ),
        "avoid": Node("CLIPTextEncode", column + 1, "Negative prompt", {"clip": text}, {"text": unwished}, 360, 20),
        "control": loader("ControlNetLoader", column + 1, "", {"control_net_name": CANNY}),
        "held": Node("ControlNetApplyAdvanced", column + 1, links=control, values={"strength": 0.7}, width=360),
    }


def key_sampler(kind: str, column: int, model: Link) -> Node:
    """One of the samplers of key frames."""
    links: dict[str, Link] = {"model": model, "vae": ("checkpoint", "VAE"), "frames": ("advice", "key_frames")}
    links |= {"positive": ("held", "positive"), "negative": ("held", "negative"), "keys": ("advice", "key_indices")}
    values = {"control_after_generate": "fixed"}
    return Node(kind, column, links=links, values=values, width=380, height=220, tint="own")


def carried_keys(column: int, prefix: str) -> dict[str, Node]:
    """The frames between the painted keys, and the video."""
    links: dict[str, Link] = {"frames": ("clip", "frames"), "edits": ("painted", "key_frames")}
    carry = Node(
        "PropagateKeyFrames", column, links=links | {"keys": ("advice", "key_indices")}, height=200, tint="own"
    )
    save = saver(column + 1, ("carry", "edited"), ("clip", "fps"), prefix, "Result", ("clip", "audio"))
    return {"carry": carry, "save": save}
