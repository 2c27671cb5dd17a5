"""Which tables there are: their rows, the tasks they run on, and what they ask.

`small` fits into half an hour on two cores; `full` has more clips, seeds and rows, for a night or a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...paper import ZERO
from .guided_rows import FRESCO_ROWS, RERENDER_ROWS, STRIDE
from .measures import LPIPS, PLACES, VBENCH
from .specs import Spec

TEMPORAL = ("warp error", "flicker", "tOF")
QUALITY = ("psnr", "psnr inside", "ssim", "ssim gaussian")
BY_PLACE = ("psnr", *PLACES, "psnr inside", "psnr outside", "ssim", "ssim gaussian", "lpips")
OF_METHODS, STEADY = QUALITY + LPIPS + TEMPORAL + VBENCH, TEMPORAL + VBENCH
TEST, VALIDATION, GREY, GENERAL = "color-edit-test-", "color-edit-validation-", "grey-", "general-edit-test-"


@dataclass(frozen=True)
class Table:
    """One question. rows: label -> method; base: the row that others are compared with; tasks: how their names begin;
    edits: kinds of edit that they show, any when empty; clips: how many of them; videos: somebody's clips to make them
    of; options: further ones that the command needs; frames: to measure, all when None; seeds: repeats of what is
    drawn."""

    name: str
    title: str
    question: str
    rows: Mapping[str, Spec]
    base: str
    tasks: str = VALIDATION  # settings are chosen on other clips than methods are compared on
    edits: tuple[str, ...] = ()
    clips: int = 1
    videos: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    frames: tuple[int, ...] | None = None
    seeds: int = 1
    measures: tuple[str, ...] = (*QUALITY, "lpips")


@dataclass(frozen=True)
class Suite:
    """tables: what is measured; scenes: size and frames of their rendered clips, where they are not the usual ones."""

    name: str
    tables: tuple[Table, ...]
    scenes: Mapping[str, int] = field(default_factory=dict)


DIFFERENCE: dict[str, Any] = {"operator": "difference", "radius": 0}
ASK = "How near do the methods come to the truth?"
METHOD_ROWS: dict[str, Spec] = {
    "Original": Spec("identity"),
    "Pixel swap": Spec("pixel swap"),
    "Optical flow (DIS)": Spec("flow"),
    "Optical flow (RAFT)": Spec("flow", {"flow": "raft"}),
    "Difference, carried": Spec("propagation", {"engine": "change", "change": DIFFERENCE}),
    "Propagation": Spec("propagation"),
    "Cross-image attention": Spec("cross-image"),
    "Zero-Stage": Spec("zero"),
    "Direct training (tgt-ref)": Spec("hero", {"mode": "tgt-ref"}),
    "Hero-Stage": Spec("hero"),
    "Both witnesses": Spec("mix", {"hero": {"adapter": True}}),
}


# one setting at a time is changed from the paper's
PAPER_START: dict[str, Any] = {name: ZERO[name] for name in ("adain_start", "track")}


def _zero(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Spec]:
    return {label: Spec("zero", PAPER_START | dict(options)) for label, options in values.items()}


K_ROWS = _zero({"k = 1": {}} | {f"k = {k}": {"k": k} for k in (2, 4, 8, 16, 64)})
K_ROWS |= {"all tokens": Spec("cross-image", PAPER_START)} | _zero({"adaptive, 1 to 8": {"k": "adaptive"}})
FEATURES = {
    "timestep 51, block 2, 8 draws": {},
    "timestep 261, block 1, 8 draws (paper)": {name: ZERO[name] for name in ("timestep", "block")},
    "timestep 51, block 2, 2 draws": {"ensemble": 2},
    "timestep 0, block 2, 1 draw": {"timestep": 0, "ensemble": 1},
    "timestep 51, block 1, 8 draws": {"block": 1},
    "timestep 261, block 2, 8 draws": {"timestep": 261},
}
CONTRAST = {
    "contrast 1": Spec("cross-image", PAPER_START),
    "contrast 1.33": Spec("cross-image", PAPER_START | {"contrast": 1.33}),
    "contrast 1.67": Spec("cross-image", PAPER_START | {"contrast": 1.67}),
}
STEPS: dict[str, dict[str, Any]] = {"20 steps": {}} | {
    f"{steps} steps": {"num_inference_steps": steps} for steps in (5, 10, 50)
}
SAMPLING: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "no AdaIN at the start": {"adain_start": False},
    "layers 6 to 11": {"layers": tuple(range(6, 12))},
    "layers 9 to 11": {"layers": (9, 10, 11)},
    "layers 3 to 5": {"layers": (3, 4, 5)},
    "own look where the cycle does not close": {"sure": 0.5},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "no AdaIN at the start": {"adain_start": False},
    "2 draws": {"ensemble": 2},
    "timestep 0, 1 draw": {"timestep": 0, "ensemble": 1},
}
CHOICE: dict[str, dict[str, Any]] = {
    "gamma 1, tau 1": {"k": 4},
    "gamma 0.5": {"k": 4, "gamma": 0.5},
    "gamma 0": {"k": 4, "gamma": 0.0},
    "tau 0.5": {"k": 4, "tau": 0.5},
    "tau 2": {"k": 4, "tau": 2.0},
    "tau 4": {"k": 4, "tau": 4.0},
}
ALONE: dict[str, Any] = {"track": False}
FOLLOWING = {
    "each frame alone": Spec("zero", ALONE),
    "followed": Spec("zero"),
    "pixel swap, alone": Spec("pixel swap", ALONE),
    "pixel swap, followed": Spec("pixel swap"),
}
PAIRS = {
    "explicit": Spec("hero"),
    "implicit": Spec("hero", {"mode": "implicit"}),
    "zero-ref": Spec("hero", {"mode": "zero-ref"}),
    "tgt-ref": Spec("hero", {"mode": "tgt-ref"}),
    "before training": Spec("hero", {"share": 0.0}),
}
ADAPTER: dict[str, Any] = {"adapter": True}
BEGINNINGS = {
    "from nothing (the paper)": Spec("hero"),
    "from nothing, a third of the steps": Spec("hero", {"share": 1 / 3}),
    "adapter alone": Spec("hero", ADAPTER | {"share": 0.0}),
    "adapter, a third of the steps": Spec("hero", ADAPTER | {"steps": 100}),
    "adapter, half the steps": Spec("hero", ADAPTER),
    "adapter, all steps": Spec("hero", ADAPTER | {"steps": 300}),
}
INITIAL = {
    "Zero-Stage": Spec("hero"),
    "pixel swap": Spec("hero", {"initial": "pixel swap"}),
    "carried change": Spec("hero", {"initial": "propagation", "start": {"round_trip": True}}),
    "Zero-Stage, half the steps": Spec("hero", {"share": 0.5}),
    "pixel swap, half the steps": Spec("hero", {"initial": "pixel swap", "share": 0.5}),
}
TRAINING = {
    "as it is (rank 16, 300 steps)": Spec("hero", {"curve": (0, 25, 50, 100, 150, 200, 250, 300)}),
    "rank 4": Spec("hero", {"rank": 4}),
    "rank 64": Spec("hero", {"rank": 64}),
    "no other lights": Spec("hero", {"light": 0.0}),
    "no moved views": Spec("hero", {"shift": 0}),
    "Zero-Stage with AdaIN at the start": Spec("hero", {"start": {"adain_start": True}}),
    "Zero-Stage without following": Spec("hero", {"start": ALONE}),
}
LONG_TRAINING = TRAINING | {
    "600 steps": Spec("hero", {"share": 2.0}),
    "whole frames": Spec("hero", {"crop": 1.0}),
    "25 sampling steps, one sample": Spec("hero", {"num_inference_steps": 25, "samples": 1}),
}
FEW = (8, 15)
CARRIERS = {
    "Original": Spec("identity"),
    "Pixels": Spec("propagation", {"engine": "flow"}),
    "Difference": METHOD_ROWS["Difference, carried"],
    "Ratio": Spec("propagation", {"engine": "change", "change": {"operator": "ratio", "radius": 0}}),
    "Affine map": Spec("propagation", {"engine": "change", "change": {"operator": "affine", "radius": 0}}),
    "Patches": Spec("propagation", {"engine": "patch"}),
    "EbSynth": Spec("ebsynth"),
    "Propagation": METHOD_ROWS["Propagation"],
}
INNER = tuple(range(1, 15))  # of 16 frames, those between the first and the last
TWO_KEYS = {
    "One key": Spec("propagation"),
    "Two keys": Spec("propagation", {"keys": (15,)}),
    "Two keys, hard choice": Spec("propagation", {"keys": (15,), "blending": {"choice": "hard"}}),
    "Two keys, hard choice, errors mirrored": Spec(
        "propagation", {"keys": (15,), "blending": {"choice": "hard"}, "mirrored": True}
    ),
    "Patches, one key": Spec("propagation", {"engine": "patch"}),
    "Patches, two keys": Spec("propagation", {"engine": "patch", "keys": (15,)}),
}

_ABLATIONS = (
    Table(
        "candidates",
        "Candidates for defaults",
        "Of what looked better and costs no more: what holds on many clips?",
        _zero(CANDIDATES),
        "as in the paper",
        measures=("psnr", "psnr inside", "psnr outside", "ssim", "ssim gaussian", "lpips"),
    ),
    Table("k", "Reference tokens a query", "How many of the best matches should a token read?", K_ROWS, "k = 1"),
    Table(
        "features",
        "Where matches are read",
        "Which timestep and decoder block of the model give the best features, and over how many noise draws?",
        _zero(FEATURES),
        "timestep 51, block 2, 8 draws",
    ),
    Table(
        "contrast",
        "Contrast of plain cross-image attention",
        "Is the baseline at its best? (beta of arXiv 2311.03335)",
        CONTRAST,
        "contrast 1",
    ),
    Table("steps", "DDIM steps", "How many steps of inversion and sampling?", _zero(STEPS), "20 steps"),
    Table(
        "choice",
        "Whose query, and how sharp a choice",
        "With four matches a token: whose query weighs them (gamma), and how sharply (tau)?",
        _zero(CHOICE),
        "gamma 1, tau 1",
    ),
    Table(
        "sampling",
        "Start, layers, unsure matches",
        "Does the AdaIN start help, which layers should read the reference, should unsure tokens keep their own look?",
        _zero(SAMPLING),
        "as in the paper",
    ),
)


_TRACKING = Table(
    "tracking",
    "Following tokens",
    "Should matches be followed from frame to frame? (Whole clips, for the way to a frame costs time too.)",
    FOLLOWING,
    "each frame alone",
    measures=OF_METHODS,
)


PROPAGATION = (
    Table(
        "propagation",
        "Propagation without a model",
        "Of one edited frame: what should be carried to the others?",
        CARRIERS,
        "Propagation",
        TEST,
        measures=(*QUALITY, "psnr last", "lpips", *TEMPORAL),
    ),
    Table(
        "two-keys",
        "Between two edited frames",
        "What does a second edited frame gain, and by what should the side be chosen?",
        TWO_KEYS,
        "Two keys",
        TEST,
        frames=INNER,
        measures=(*QUALITY, "lpips"),
    ),
)


def _anchors(label: str, method: str, **options: Any) -> dict[str, Spec]:
    return {
        f"{label}, one anchor": Spec(method, options),
        f"{label}, two anchors": Spec(method, {**options, "keys": (15,)}),
    }


ANCHORS = {
    **_anchors("Zero-Stage", "zero"),
    **_anchors("Hero-Stage", "hero"),
    **_anchors("Both witnesses", "mix", hero=ADAPTER),
}
SEVERAL = Table(
    "anchors",
    "Several anchors",
    "What does a second edited frame, the last one, gain on the frames between?",
    ANCHORS,
    "Both witnesses, one anchor",
    TEST,
    frames=INNER,
    measures=(*QUALITY, "psnr last", "lpips"),
)

GUIDED = ("psnr", "psnr inside", "ssim", "warp error", "flicker", "drift", "colour drift")
GUIDANCE = (
    Table(
        "rerender",
        "Rerender-A-Video, part by part",
        "Key frames painted one after another from an edited anchor: what does each part add?",
        RERENDER_ROWS,
        "Keys alone",
        TEST,
        frames=STRIDE,
        measures=GUIDED,
    ),
    Table(
        "fresco",
        "FRESCO, part by part",
        "Key frames painted together with an edited anchor: what does each part add?",
        FRESCO_ROWS,
        "Keys alone",
        TEST,
        frames=STRIDE,
        measures=GUIDED,
    ),
)


def _trainings(rows: Mapping[str, Spec]) -> tuple[Table, ...]:
    learn, start = "What should Hero-Stage learn from?", "What should it start from?"
    pairs = Table("pairs", "Training pairs (paper, Table 3)", learn, PAIRS, "explicit", TEST, measures=BY_PLACE)
    retexture = replace(
        pairs,
        name="pairs-retexture",
        title="Training pairs where the edit is a new texture",
        question="What should Hero-Stage learn from, where the edit is no change of colours that the frame tells?",
        edits=("retexture",),
    )
    return (
        pairs,
        retexture,
        Table(
            "adapter",
            "A universal adapter",
            "What does a LoRA that was trained over other clips save?",
            BEGINNINGS,
            "from nothing (the paper)",
            TEST,
            measures=BY_PLACE,
        ),
        Table("initial", "Initial pictures (paper, Table 4)", start, INITIAL, "Zero-Stage", TEST, measures=BY_PLACE),
        Table("training", "Training", "Rank, lights, steps, crops, sampling.", rows, "as it is (rank 16, 300 steps)"),
    )


def _methods(counts: tuple[int, int, int], seeds: int) -> tuple[Table, ...]:
    edit, colour, general = (dict[str, Any](clips=clips, seeds=seeds) for clips in counts)
    ask, base, rows = ASK, "Hero-Stage", METHOD_ROWS
    steady = "How steady is the result where pattern and style change? Truth on the anchor only."
    return (
        Table("color-edit", "Color-Edit", ask, rows, base, TEST, measures=OF_METHODS, **edit),
        Table("colorization", "Colorization", ask, rows, base, GREY, measures=OF_METHODS, **colour),
        Table("general-edit", "General-Edit", steady, rows, base, GENERAL, measures=STEADY, **general),
    )


def _with(tables: Sequence[Table], clips: int, frames: tuple[int, ...] | None, seeds: int) -> tuple[Table, ...]:
    return tuple(replace(table, clips=clips, frames=frames, seeds=seeds) for table in tables)


SUITES = {
    "small": Suite(
        "small",
        _methods((2, 1, 1), 1)
        + _with(PROPAGATION[:1], 2, None, 1)
        + _with(PROPAGATION[1:], 2, INNER, 1)
        + _with((SEVERAL,), 2, INNER, 1)
        + _with(GUIDANCE, 2, STRIDE, 1)
        + _with((_TRACKING,), 2, None, 1)
        + _with(_ABLATIONS, 2, FEW, 1)
        + _with(_trainings(TRAINING), 1, None, 1),
    ),
    "full": Suite(
        "full",
        _methods((5, 5, 5), 3)
        + _with(PROPAGATION[:1], 20, None, 1)
        + _with(PROPAGATION[1:], 20, INNER, 1)
        + _with((SEVERAL,), 5, INNER, 1)
        + _with(GUIDANCE, 10, STRIDE, 1)
        + _with((_TRACKING,), 5, None, 1)
        + _with(_ABLATIONS, 20, FEW, 1)
        + _with(_trainings(LONG_TRAINING), 5, None, 3),
    ),
}
