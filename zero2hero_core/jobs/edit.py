"""The job of `zero2hero edit`: Zero-Stage, training on the edited frame, restoring; at the end both witnesses, the
restored frames and the carried change, in one result."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..backbones.sources import HUB
from ..checks import InputError, Unfinished, Zero2HeroError, setting
from ..files.guard import Results, begun_in, clear, content
from ..files.json_file import write_json
from ..propagation.names import ENGINES
from ..propagation.settings import PropagationSettings
from ..video.image_writer import write_image
from ..video.source import open_frames
from ..zero_stage.settings import ZeroStageSettings
from . import propagate, restore, train, zero
from .clip import TINY_SIZE, ClipRequest, check_also, check_paths, is_same_aspect, open_clip
from .folder import job_folder
from .frames import FRAMES, OutputRequest, check_video, frame_results
from .hero_settings import RestoreChoice, TrainingChoice
from .listener import Listener
from .models import DiTModel, SDModel
from .propagation import ROUND_TRIP
from .request import flat_values
from .state import file_digest, read_state
from .training import LORA

DIVISOR = 16  # of the sides of frames, for the checks
ZERO_FOLDERS = ("zero", "zero_anchor", "zero_target")
INITIAL_FOLDERS = ("initial", "initial_anchor")
ZERO_VIDEO, INITIAL_VIDEO = "zero.mp4", "initial.mp4"
INITIALS = ("zero", *ENGINES)
RESTORED_FOLDER, RESTORED_VIDEO = "restored", "restored.mp4"
MIX, HERO = "mix", "hero"
FINISHES = (MIX, HERO)


@dataclass(frozen=True)
class EditRequest:
    """The whole edit of a clip.

    reference: the edited anchor, a picture file. also: further edited frames, index -> picture.
    initial: what Hero-Stage starts from: Zero-Stage's pictures, or those of an engine of propagation, which need no
        model.
    finish: "mix" puts the restored frames and the carried change together, each where it is to be trusted, at the
        clip's own size; "hero" ends with the restored frames, as the paper does; None is "mix".
    tiny: the bundled models, else hero_model and, for Zero-Stage, zero_model (see `SDModel`, `DiTModel`, as for what
        follows them).
    batch: frames at once; halved if memory is short.
    """

    clip: ClipRequest
    settings: ZeroStageSettings
    training: TrainingChoice
    restoring: RestoreChoice
    output: OutputRequest
    reference: str
    tiny: bool = False
    zero_model: str | None = None
    hero_model: str | None = None
    device: str = "auto"
    weights: str | None = None
    vae: str | None = None
    text_embedding: str | None = None
    hero_prompt: str = ""
    batch: int = 2
    initial: str = "zero"
    finish: str | None = None
    also: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_also(self.clip, self.also)
        if self.also and self.training.mode == "implicit":
            raise InputError(f"{setting('mode')} implicit: learns from one anchor, got {len(self.also) + 1}.")
        if self.initial not in INITIALS:
            raise InputError(f"{setting('initial')}: expected one of {', '.join(INITIALS)}, got {self.initial!r}.")
        if self.finish not in (None, *FINISHES):
            raise InputError(f"{setting('finish')}: expected one of {', '.join(FINISHES)}, got {self.finish!r}.")
        models = [self.zero_model, self.hero_model] if self.initial == "zero" else [self.hero_model]
        if self.tiny == any(models) or (not self.tiny and not all(models)):
            both = f"{setting('zero_model')} together with {setting('hero_model')}"
            expected = both if self.initial == "zero" else setting("hero_model")
            raise InputError(f"models: expected {setting('tiny')}, or {expected}.")
        if self.initial != "zero" and self.training.mode == "implicit":
            raise InputError(
                f"{setting('mode')} implicit: learns from Zero-Stage's wear; expected {setting('initial')} zero, got "
                f"{self.initial}."
            )

    @property
    def anchor(self) -> int:
        """Index of the frame that was edited."""
        return self.clip.start if self.clip.anchor is None else self.clip.anchor

    @property
    def edits(self) -> dict[int, str]:
        """All edited frames, index -> picture."""
        return {self.anchor: self.reference, **self.also}

    @property
    def mixes(self) -> bool:
        """Whether the carried change is mixed in at the end."""
        return self.finish != HERO

    @property
    def hero(self) -> DiTModel:
        """The model of Hero-Stage."""
        return DiTModel(
            tiny=self.tiny,
            model=self.hero_model,
            device=self.device,
            weights=self.weights,
            vae=self.vae,
            text_embedding=self.text_embedding,
            hero_prompt=self.hero_prompt,
        )


def results(output: OutputRequest, also: Iterable[int] = ()) -> Results:
    """What the job writes in its folder: the results of its parts. also: indices of further edited frames."""
    more = [_anchor_folder(index) for index in also]
    names = restore.results(output) | train.ALL_RESULTS.below("training") | Results(("anchor.png",))
    for folder in (*ZERO_FOLDERS, *(f"zero_{name}" for name in more)):
        names |= frame_results(zero.STATE, ZERO_VIDEO).below(folder)
    for folder in (*INITIAL_FOLDERS, *(f"initial_{name}" for name in more)):
        names |= propagate.results(OutputRequest(folder, video_name=INITIAL_VIDEO)).below(folder)
    names |= restore.results(OutputRequest(RESTORED_FOLDER, video_name=RESTORED_VIDEO)).below(RESTORED_FOLDER)
    return names | propagate.results(output)


def _anchor_folder(index: int) -> str:
    return f"anchor_{index:06d}"


def run(request: EditRequest, listener: Listener) -> dict[str, Any]:
    """Check what can be checked before the first part begins, then run the parts; returns one report.

    Raises: InputError; Unfinished when a part ended early: each part goes on where it was.
    """
    check_paths(request.clip.video, *request.edits.values(), request.text_embedding, request.vae)
    if request.hero_model and not request.hero_model.startswith(HUB):
        check_paths(request.hero_model)
    remedies = ("resume", "overwrite")
    with job_folder(flat_values(request), "edit", results(request.output, request.also), remedies=remedies) as out:
        return _run(request, out, listener)


def _run(request: EditRequest, out: Path, listener: Listener) -> dict[str, Any]:
    _check(request, out)
    start = time.perf_counter()
    if request.output.overwrite and out != Path(request.output.out):  # of an edit that did not end nothing is taken up
        clear(out)
    with _kept(out):
        reports = _Parts(request, out, listener).run()
    seconds = {name: part["seconds"]["total"] for name, part in reports.items()}
    last = "mix" if request.mixes else "restore"
    report = reports[last] | {"command": "edit"}
    report |= {"parts": {name: part for name, part in reports.items() if name != last}}
    report["notes"] = list(dict.fromkeys(note for part in reports.values() for note in part["notes"]))
    report["seconds"] |= {f"part {name}": value for name, value in seconds.items()}
    report["seconds"]["total"] = round(time.perf_counter() - start, 3)
    write_json(out / "report.json", report)
    return report


def _check(request: EditRequest, out: Path) -> None:
    """Raise `InputError` for what a later part would refuse, as far as it shows without the models."""
    begun = any((out / folder).is_dir() for folder in ("zero", "initial"))
    if request.output.resume and content(out) and not begun:
        raise InputError(f"{setting('resume')}: {out} holds no earlier `zero2hero edit`; choose its folder.")
    settings = request.training.settings({})  # what suits the model is in range
    request.restoring.settings({}).strength(0, len(settings.kinds))
    clip = open_clip(_sized(request), DIVISOR)
    check_video(request.output, request.clip.video, clip)
    if unknown := set(request.training.evaluate_frames or ()) - set(clip.indices):
        raise InputError(f"{setting('evaluate_frames')}: frame {min(unknown)} is not a chosen frame.")


def _sized(request: EditRequest) -> ClipRequest:
    """The clip at the size of the frames."""
    return replace(request.clip, size=request.clip.size or (TINY_SIZE if request.tiny else None))


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """Within the block, whatever ends the edit early tells that its finished parts are kept."""
    kept = f"what is finished is kept in {out}"
    try:
        yield
    except KeyboardInterrupt as error:
        raise Unfinished(f"interrupted; {kept}") from error
    except Unfinished:
        raise
    except Zero2HeroError as error:
        begun = any((out / folder).is_dir() for folder in ("zero", "initial"))
        if not begun or any(setting(name) in error.text for name in ("resume", "overwrite")):
            raise
        raise Unfinished(f"{error.text.rstrip('.')}; {kept}", error.exit_status) from error


class _Parts:
    """The parts of one edit, each a job in a folder of its own; a part that has begun is resumed."""

    def __init__(self, request: EditRequest, out: Path, listener: Listener):
        self.request, self.out, self.listener = request, out, listener

    def run(self) -> dict[str, dict[str, Any]]:
        """Reports by part, in the order of the work."""
        request, name = self.request, "zero" if self.request.initial == "zero" else "initial"
        make = self._zero if name == "zero" else self._initial
        reports = {name: make(name)}
        folders = [str(self.out / name)]
        made = {row["index"] for row in reports[name]["frames"]}
        for anchor in sorted(request.edits.keys() - made):
            place = "anchor" if anchor == request.anchor else _anchor_folder(anchor)
            reports[f"{name} {place.replace('_', ' ')}"] = make(f"{name}_{place}", clip=self._beside_anchor(anchor))
            folders.append(str(self.out / f"{name}_{place}"))
        target = None
        if request.training.mode == "implicit":
            target = str(self.out / "zero_target")
            reports["zero target"] = self._zero("zero_target", reference=self._anchor_picture())
        reports["train"] = self._train(folders, target)
        reports["restore"] = self._restore(folders)
        if request.mixes:
            reports["mix"] = self._mix()
        return reports

    def _zero(self, folder: str, **changes: Any) -> dict[str, Any]:
        request = self.request
        part = zero.ZeroRequest(
            clip=request.clip,
            model=SDModel(tiny=request.tiny, model=request.zero_model, device=request.device),
            settings=request.settings,
            output=self._output(folder, zero.STATE, "zero", video_name=ZERO_VIDEO, no_audio=request.output.no_audio),
            reference=request.reference,
            batch=request.batch,
            also=request.also,
        )
        return zero.run(replace(part, **changes), self.listener)

    def _beside_anchor(self, anchor: int) -> ClipRequest:
        """An anchor, and for a way there and back the frames beside it."""
        clip = self.request.clip
        if self.request.initial == "zero":
            return replace(clip, start=anchor, stop=None, stride=1, max_frames=1)
        start = anchor - ROUND_TRIP if anchor >= ROUND_TRIP else anchor
        return replace(clip, start=start, stop=None, stride=1, max_frames=ROUND_TRIP + 1)

    def _initial(self, folder: str, **changes: Any) -> dict[str, Any]:
        """The edit propagated, on the anchor there and back."""
        request = self.request
        size = open_clip(_sized(request), DIVISOR).size_hw
        clip = changes.get("clip", request.clip)
        output = self._output(
            folder, propagate.STATE, "propagate", video_name=INITIAL_VIDEO, no_audio=request.output.no_audio
        )
        part = propagate.PropagateRequest(
            clip=replace(clip, size=size, anchor=None),
            settings=PropagationSettings(engine=request.initial, round_trip=True),  # type: ignore[arg-type]  # checked
            output=output,
            key=request.edits,
        )
        return propagate.run(part, self.listener)

    def _train(self, folders: list[str], target: str | None) -> dict[str, Any]:
        request = self.request
        output = self._output("training", train.RUN_STATE, "hero train")
        part = train.TrainRequest(
            clip=replace(request.clip, size=None),  # that of the Zero-Stage frames
            model=request.hero,
            training=request.training,
            restoring=request.restoring,
            reference=request.reference,
            zero=tuple(folders),
            out=output.out,
            zero_anchor=target,
            also=request.also,
            resume=output.resume,
            overwrite=output.overwrite,
        )
        return train.run(part, self.listener)

    def _restore(self, folders: list[str]) -> dict[str, Any]:
        request, lora = self.request, self.out / "training" / LORA
        place = RESTORED_FOLDER if request.mixes else ""
        output = self._output(place, restore.STATE, "hero restore")
        if output.resume:  # a training that went on has another LoRA now
            state = read_state(begun_in(Path(output.out), "hero restore") / restore.STATE)
            if state.get("lora 0 sha256") != file_digest(str(lora)):
                output = replace(output, resume=False, overwrite=True)
        options = request.output
        if request.mixes:
            options = replace(options, video_name=RESTORED_VIDEO, codec=None, crf=None)
        part = restore.RestoreRequest(
            clip=replace(request.clip, size=None, anchor=None),
            model=request.hero,
            restoring=request.restoring,
            output=replace(options, out=output.out, resume=output.resume, overwrite=output.overwrite),
            zero=tuple(folders),
            lora=(str(lora),),
            batch=request.batch,
        )
        return restore.run(part, self.listener)

    def _mix(self) -> dict[str, Any]:
        """The carried change with the restored frames as its witness."""
        request, restored = self.request, self.out / RESTORED_FOLDER
        output = self._output("", propagate.STATE, "propagate")
        if output.resume:  # frames that were restored anew are other witnesses
            state = read_state(begun_in(self.out, "propagate") / propagate.STATE)
            if state.get("witness sha256") != file_digest(str(restored / FRAMES)):
                output = replace(output, resume=False, overwrite=True)
        part = propagate.PropagateRequest(
            clip=replace(request.clip, size=self._final_size(), anchor=None),
            settings=PropagationSettings(),
            output=replace(request.output, out=output.out, resume=output.resume, overwrite=output.overwrite),
            key=request.edits,
            witness=str(restored),
            keep_unedited=True,
        )
        return propagate.run(part, self.listener)

    def _final_size(self) -> tuple[int, int]:
        """(H, W) of the result: the clip's own, unless the user chose a size or the models' has another shape."""
        clip = open_clip(_sized(self.request), DIVISOR)
        own = self.request.clip.size is None and self.request.clip.policy == "resize"
        return clip.native_hw if own and is_same_aspect(clip.native_hw, clip.size_hw) else clip.size_hw

    def _output(self, folder: str, state: str, command: str, **more: Any) -> OutputRequest:
        """The folder is the edit's own: a part that cannot be taken up begins anew."""
        place = self.out / folder if folder else self.out
        resume = self.request.output.resume and (begun_in(place, command) / state).exists()
        return OutputRequest(str(place), resume=resume, overwrite=not resume, **more)

    def _anchor_picture(self) -> str:
        """The anchor frame as a picture, in the clip's own size, for Zero-Stage with the anchor as its reference."""
        path = self.out / "anchor.png"
        with open_frames(self.request.clip.video, start=self.request.anchor, maximum=1, multiple=1) as source:
            write_image(path, source.frames([0])[0], overwrite=True)
        return str(path)
