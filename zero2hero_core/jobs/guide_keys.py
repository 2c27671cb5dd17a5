"""Key frames of a clip, painted from a prompt: the first part of `zero2hero guide`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..backbones.sd.controlnet import Control, load_controlnet
from ..backbones.sd.guided import GuidedUNet
from ..backbones.sd.unet import UNetBackbone
from ..checks import InputError, Unfinished, Zero2HeroError, setting
from ..files.guard import Results, content
from ..files.json_file import write_json
from ..guidance.batches import CarriedLatents
from ..guidance.fresco import KeyFrameBatchPainter
from ..guidance.hints import canny_edges
from ..guidance.parts import FRESCO, Batch, Part
from ..guidance.rerender import KeyFramePainter, PaintedKey
from ..guidance.settings import FrescoSettings, RerenderSettings
from ..propagation.key_frames import KeyFrameSettings
from ..version import __version__
from ..video.image_writer import write_image
from ..video.resize import resize_frames
from ..video.source import open_frames, read_image
from .clip import Clip, ClipRequest, Masks, Pictures, same_picture
from .guidance import outward, plan, rerender_steps
from .keyframes import choose_key_frames
from .listener import Counter, Listener, Notes
from .models import SDModel, load_unet
from .spool import Spool
from .state import check_same, file_digest, read_state, tensor_digest
from .zero import model_digest

Method = Literal["rerender", "fresco"]
STATE, CARRIED = "keys.json", "carried"
RESULTS = Results((STATE,), ((".", r"key_\d{6,}\.png"), (CARRIED, r".+\.safetensors")))
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
    kind = _OneByOne if painting.method == "rerender" else _InBatches
    work = kind(painting, denoiser, clip, keys, anchor, edit, out, listener, foreground)
    work.begin(state, resume)
    try:
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


class _Work(ABC):
    """Painting of keys into a folder, which can be taken up again."""

    def __init__(
        self,
        painting: Painting,
        denoiser: GuidedUNet,
        clip: Clip,
        keys: Sequence[int],
        anchor: int,
        edit: torch.Tensor | None,
        out: Path,
        listener: Listener,
        foreground: Masks | None,
    ):
        self.painting, self.denoiser, self.clip = painting, denoiser, clip
        self.keys, self.anchor, self.edit = list(keys), anchor, edit
        self.out, self.listener, self.foreground = out, listener, foreground
        self.frames, self.spool = clip.by_index(), Spool(out / CARRIED)
        self.done: set[int] = set()
        self.seconds = 0.0
        self._steps = Counter(listener, "steps", self.count_steps())

    @abstractmethod
    def count_steps(self) -> int:
        """Steps that all keys take at most."""

    @abstractmethod
    def paint(self) -> None:
        """Paint what is missing."""

    def path_of(self, key: int) -> Path:
        """The picture of a key."""
        return self.out / f"key_{key:06d}.png"

    def begin(self, state: dict[str, Any], resume: bool) -> None:
        """Take up what an equal run left, or begin anew."""
        file = self.out / STATE
        resumed = resume and file.exists()
        if resumed:
            check_same(read_state(file), state)
        elif resume and content(self.out):
            raise InputError(f"{setting('resume')}: {self.out} holds no {STATE} of an earlier run; choose its folder.")
        self.out.mkdir(parents=True, exist_ok=True)
        if not resumed:
            self.spool.close()
            for path in self.out.glob("key_*.png"):
                path.unlink()
            write_json(file, state)

    def step(self) -> None:
        """One more step of a sampling."""
        self._steps.step()
        if self.listener.cancelled():
            raise Zero2HeroError("cancelled")

    def has(self, keys: Sequence[int]) -> bool:
        """Whether the pictures of keys are there, whole."""
        for key in keys:
            try:
                if tuple(read_image(self.path_of(key)).shape[-2:]) != self.clip.size_hw:
                    return False
            except InputError:  # missing or damaged: painted again
                return False
        return True

    def write(self, key: int, picture: torch.Tensor) -> None:
        """Keep the picture of a key."""
        if not bool(torch.isfinite(picture).all()):
            raise Zero2HeroError(
                f"the model gave values that are no numbers for frame {key}; try {setting('dtype')} float32 or bfloat16"
            )
        write_image(self.path_of(key), picture, overwrite=True)
        self.done.add(key)
        self.listener.preview(picture)
        self.listener.progress("key frames", len(self.done), len(self.keys))


class _OneByOne(_Work):
    """Rerender-A-Video."""

    def count_steps(self) -> int:
        """Of the anchor and of every key after it."""
        self.painter = KeyFramePainter(self.denoiser, self.painting.rerender, on_step=self.step)
        return rerender_steps(self.painter, len(self.keys))

    def paint(self) -> None:
        """The anchor, then outward; after each key what the next one needs is kept."""
        self.write(self.anchor, self.painter.begin(self.anchor, self.frames[self.anchor], self.edit).picture)
        for side, keys in enumerate(outward(self.keys, self.anchor)):
            self.painter.turn_back()
            todo = self._take_up(side, keys)
            for key in todo:
                painted = self.painter.paint(key, self.frames[key])
                self.write(key, painted.picture)
                self._keep(side, painted)
        self.spool.close()

    def _keep(self, side: int, painted: PaintedKey) -> None:
        own = {"index": torch.tensor(painted.index), "picture": painted.picture, "latents": painted.latents}
        bank = {f"bank {name}": tensor for name, tensor in painted.bank.tensors().items()}
        count = torch.tensor(self.painter.painted)
        self.spool.put(f"previous-{side}", {name: value.cpu() for name, value in own.items()} | bank | {"count": count})

    def _take_up(self, side: int, keys: list[int]) -> list[int]:
        """Go on after the last key of a side that was kept; returns those that are missing."""
        kept = self.spool.get(f"previous-{side}")
        index = -1 if kept is None else int(kept["index"])
        if kept is None or index not in keys or not self.has(keys[: keys.index(index) + 1]):
            return keys
        place = keys.index(index) + 1
        bank = {name.removeprefix("bank "): tensor for name, tensor in kept.items() if name.startswith("bank ")}
        self.painter.take_up(index, self.frames[index], kept["picture"], kept["latents"], bank, int(kept["count"]))
        self.done |= set(keys[:place])
        return keys[place:]


class _InBatches(_Work):
    """FRESCO."""

    def count_steps(self) -> int:
        """Of all batches."""
        painting = self.painting
        self.painter = KeyFrameBatchPainter(self.denoiser, painting.fresco, painting.parts, on_step=self.step)
        self.batches = plan(self.keys, self.anchor, painting.fresco.batch)
        return len(self.batches) * self.painter.steps_of_batch

    def paint(self) -> None:
        """Batch by batch; after each what the next one needs is kept."""
        for number, batch in self._missing():
            painted = self.painter.paint(self._batch(batch.frames), batch.carried, self.edit)
            for row in range(batch.carried, len(batch.frames)):
                self.write(batch.frames[row], painted.pictures[row])
            self.painter.carried.save(self._record(number))
            self._record(number - 1).unlink(missing_ok=True)
        self.spool.close()

    def _record(self, number: int) -> Path:
        folder = self.out / CARRIED
        folder.mkdir(exist_ok=True)
        return folder / f"batch-{number:06d}.safetensors"

    def _missing(self) -> Iterator[tuple[int, Any]]:
        first = 0
        for number in range(len(self.batches)):
            if self._record(number).exists():
                produced = [key for one in self.batches[: number + 1] for key in one.new]
                if self.has(produced):
                    self.painter.carried = CarriedLatents.load(self._record(number))
                    self.done, first = set(produced), number + 1
        yield from list(enumerate(self.batches))[first:]

    def _batch(self, keys: Sequence[int]) -> Batch:
        masks = None
        if self.foreground is not None:
            numbers = {index: number for number, index in enumerate(self.clip.indices)}
            masks = self.foreground.batch([numbers[key] for key in keys])
        return Batch(tuple(keys), torch.stack([self.frames[key] for key in keys]), masks)
