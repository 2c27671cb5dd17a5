"""Key frames of a clip, painted from a prompt: the first part of `zero2hero guide`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..backbones.sd.controlnet import Control, load_controlnet
from ..backbones.sd.guided import GuidedUNet
from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError, Unfinished, Zero2HeroError, setting
from ..guidance.hints import canny_edges
from ..guidance.parts import FRESCO, Part
from ..guidance.settings import FrescoSettings, RerenderSettings
from ..propagation.key_frames import KeyFrameSettings
from ..version import __version__
from ..video.resize import resize_frames
from ..video.source import open_frames, read_image
from .clip import Clip, ClipRequest, Masks, Pictures, same_picture
from .key_painting import ChosenKeys, InBatches, KeyWork, OneByOne
from .keyframes import choose_key_frames
from .listener import Counter, Listener, Notes
from .models import SDModel, load_unet
from .state import file_digest, tensor_digest
from .zero import model_digest

Method = Literal["rerender", "fresco"]
SIZE = 512  # short side that Stable Diffusion 1.5 was made for
CANNY = "canny"


@dataclass(frozen=True)
class Painting:
    """How key frames are painted.

    method: "rerender" or "fresco", with their settings; parts: of FRESCO's guidance. prompt, negative, guidance_scale:
    what to paint, what not, and how strongly. edit: number of one frame -> its edited picture, which the others are
    held to. key_frames: how keys are chosen; None takes every tenth for Rerender-A-Video and for FRESCO 5 to 20 apart,
    where the picture changes most. keys: further keys. controlnet: a file or folder; control: what it shows, "canny" or
    pictures, one for each chosen frame (a folder, glob or video); control_strength: 0 to 2; canny: its thresholds.
    foreground: masks of what moves (white), for FRESCO's still background.

    Raises: InputError.
    """

    prompt: str = ""
    method: Method = "rerender"
    negative: str = ""
    guidance_scale: float = 7.5
    edit: Mapping[int, str] = field(default_factory=dict)
    keys: tuple[int, ...] = ()
    controlnet: str | None = None
    control: str = CANNY
    control_strength: float = 1.0
    canny: tuple[int, int] = (100, 200)
    foreground: str | None = None
    key_frames: KeyFrameSettings | None = None
    rerender: RerenderSettings = field(default_factory=RerenderSettings)
    fresco: FrescoSettings = field(default_factory=FrescoSettings)
    parts: tuple[Part, ...] = FRESCO

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            names = ", ".join(get_args(Method))
            raise InputError(f"{setting('method')}: expected one of {names}, got {self.method!r}.")
        if len(self.edit) > 1:
            raise InputError(
                f"{setting('edit')}: expected the edit of one frame, got {len(self.edit)}; `propagate` carries several."
            )
        if not 0 <= self.guidance_scale <= 100:
            raise InputError(f"{setting('guidance_scale')}: expected 0 to 100, got {self.guidance_scale:g}.")
        if self.foreground and self.method != "fresco":
            raise InputError(f"{setting('foreground')}: has an effect with {setting('method')} fresco only; leave it.")

    @property
    def choice(self) -> KeyFrameSettings:
        """How keys are chosen."""
        if self.key_frames is not None:
            return self.key_frames
        return KeyFrameSettings(method="uniform" if self.method == "rerender" else "adaptive")


def paint_keys(
    painting: Painting,
    model: SDModel,
    clip_request: ClipRequest,
    clip: Clip,
    out: Path,
    resume: bool,
    listener: Listener,
    notes: Notes,
) -> dict[int, str]:
    """Paint the key frames of a clip into a folder.

    Returns: number of each key -> its picture file; the edited frame's is the edit.
    Raises: InputError; Unfinished when it ended early: what is painted is kept.
    """
    backbone = load_unet(model, painting.prompt or painting.negative)
    _note_no_ops(painting, notes)
    anchor, keys = _choose(painting, clip, listener)
    edit = _read_edit(painting, clip, anchor, notes)
    denoiser = _denoiser(painting, backbone, clip)
    foreground = Masks(painting.foreground, clip, "foreground") if painting.foreground else None
    state = _state(painting, clip_request, clip, backbone, denoiser, keys)
    where = (clip, ChosenKeys(tuple(keys), anchor, edit), out, listener)
    work: KeyWork = (
        OneByOne(denoiser, painting.rerender, *where)
        if painting.method == "rerender"
        else InBatches(denoiser, painting.fresco, painting.parts, foreground, *where)
    )
    work.begin(state, resume)
    try:
        if not work.has(keys):
            work.paint()
    except (KeyboardInterrupt, Zero2HeroError) as error:
        if isinstance(error, InputError):
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else error.text.rstrip(".")
        raise Unfinished(f"{what}; {len(work.done)} of {len(keys)} key frames are finished in {out}") from error
    files = {key: str(work.path_of(key)) for key in keys}
    return files | dict(painting.edit)


def _note_no_ops(painting: Painting, notes: Notes) -> None:
    if not painting.prompt and not painting.edit:
        notes.add(f"neither {setting('prompt')} nor {setting('edit')}: the clip will look like what the model prefers")
    if painting.controlnet is None and painting.control != CANNY:
        raise InputError(f"{setting('control')}: is shown to a ControlNet, but there is none; give one.")


def _choose(painting: Painting, clip: Clip, listener: Listener) -> tuple[int, list[int]]:
    """The anchor and all keys, by their numbers in the original clip."""
    numbers = {index: number for number, index in enumerate(clip.indices)}
    fixed = dict.fromkeys([*painting.edit, *painting.keys])
    for index in fixed:
        if index not in numbers:
            name = setting("edit" if index in painting.edit else "keys")
            raise InputError(
                f"{name}: expected one of the chosen frames ({clip.indices[0]} to {clip.indices[-1]}), got {index}."
            )
    counter, tried = Counter(listener, "looking at frames", len(numbers)), Counter(listener, "key frames followed")
    frames = (clip.frames([number])[0] for number in range(len(numbers)))
    places = sorted(numbers[index] for index in fixed)
    if len(numbers) > 1:
        chosen = choose_key_frames(
            frames, len(numbers), painting.choice, places, on_frame=counter.step, on_chain=tried.step
        ).keys
    else:
        chosen = (0,)
    keys = [clip.indices[place] for place in chosen]
    return (next(iter(painting.edit)) if painting.edit else keys[0]), keys


def _read_edit(painting: Painting, clip: Clip, anchor: int, notes: Notes) -> torch.Tensor | None:
    """The edit (3, H, W) at the size that is painted at."""
    if not painting.edit:
        return None
    picture = read_image(painting.edit[anchor])[None]
    fitting = clip.fit(picture)
    if fitting is None:
        (h, w), (height, width) = picture.shape[-2:], clip.native_hw
        notes.add(
            f"the edit of frame {anchor} ({w} x {h}) has another aspect ratio than the clip ({width} x {height}): its "
            "centre was cut out; edit the frame without cropping it for an exact match"
        )
        fitting = resize_frames(picture, clip.size_hw, "crop")
    if same_picture(fitting[0], clip.by_index()[anchor]):
        notes.add(f"the edit of frame {anchor} is the frame itself, so the clip keeps its look")
    return fitting[0]


def _denoiser(painting: Painting, backbone: UNetBackbone, clip: Clip) -> GuidedUNet:
    controls = []
    if painting.controlnet is not None:
        net = load_controlnet(painting.controlnet, backbone.unet, device=backbone.device, dtype=backbone.dtype)
        controls.append(Control(net, _hints(painting, clip), painting.control_strength))
    positive, negative = (backbone.encode_prompt(text) for text in (painting.prompt, painting.negative))
    # With equal prompts the two passes of the guidance are the same.
    scale = 1.0 if painting.prompt == painting.negative else painting.guidance_scale
    return GuidedUNet(backbone, positive, negative, guidance_scale=scale, controls=controls)


def _hints(painting: Painting, clip: Clip) -> Mapping[int, torch.Tensor]:
    """What the ControlNet shows, by the numbers of frames, each made when it is needed."""
    frames = clip.by_index()
    if painting.control == CANNY:
        return Pictures(clip.indices, lambda index: canny_edges(frames[index], *painting.canny))
    source = open_frames(painting.control, multiple=1)
    if len(source) != len(clip.indices):
        raise InputError(
            f"{setting('control')} {painting.control}: expected {len(clip.indices)} pictures, one for each chosen "
            f"frame, got {len(source)}."
        )
    numbers = {index: number for number, index in enumerate(clip.indices)}

    def show(index: int) -> torch.Tensor:
        picture = source.frames([numbers[index]])
        fitting = clip.fit(picture)
        return (resize_frames(picture, clip.size_hw, "crop") if fitting is None else fitting)[0]

    return Pictures(clip.indices, show)


def _state(
    painting: Painting,
    clip_request: ClipRequest,
    clip: Clip,
    backbone: UNetBackbone,
    denoiser: GuidedUNet,
    keys: Sequence[int],
) -> dict[str, Any]:
    """What the pictures are made of. Two runs with equal states give equal pictures."""
    height, width = clip.size_hw
    own = asdict(painting.rerender) if painting.method == "rerender" else asdict(painting.fresco)
    if painting.method == "fresco":
        own["parts"] = [asdict(part) for part in painting.parts]  # type: ignore[call-overload]  # all are dataclasses
    files = {"video": clip_request.video, "foreground": painting.foreground}
    nets = [tensor for control in denoiser.controls for tensor in control.net.state_dict().values()]
    if painting.control != CANNY:
        files["control"] = painting.control
    return {
        "version": __version__,
        "method": painting.method,
        "model": backbone.name,
        "model sha256": model_digest(backbone),
        "prompts sha256": tensor_digest([denoiser.positive, denoiser.negative]),
        "controlnet sha256": tensor_digest(nets, 64) if nets else None,
        "guidance_scale": denoiser.guidance_scale,
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "keys": list(keys),
        "size": [width, height],
        "policy": clip.policy,
        "control_strength": painting.control_strength,
        "canny": list(painting.canny),
        **own,
        **{f"edit {index} sha256": file_digest(path) for index, path in painting.edit.items()},
        **{f"{name} sha256": file_digest(path) for name, path in files.items()},
    }
