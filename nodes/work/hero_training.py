"""The work of HeroLoRATrainer: the core's training in a folder of its own, on the MODEL's weights.

The folder's name holds a digest of everything that decides the result. So an interrupted training is found again, and a
finished one is not repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError
from ...zero2hero_core.files.lock import locked_folder
from ...zero2hero_core.files.whole import whole_file
from ...zero2hero_core.hero_stage.sampling import RestoreSettings
from ...zero2hero_core.hero_stage.training.trainer import HeroSettings
from ...zero2hero_core.jobs.adapter import Start, find_start
from ...zero2hero_core.jobs.hero_settings import TrainingChoice, with_adapter
from ...zero2hero_core.jobs.listener import Notes as JobNotes
from ...zero2hero_core.jobs.material import Material
from ...zero2hero_core.jobs.state import short_digest, thinned
from ...zero2hero_core.jobs.training import (
    LORA,
    PLOT,
    STATE,
    RunSettings,
    Training,
    TrainingRun,
    expected_memory,
    run_to_the_end,
)
from ...zero2hero_core.memory_batches import is_out_of_memory
from ...zero2hero_core.video.source import read_image
from ..convert.checks import check_anchor, check_choice, read_reference
from ..convert.pictures import size_hw_of, to_core
from ..host.lora_files import HeroLora, lora_path, read_hero_lora
from ..host.notes import NodeListener, Notes
from ..host.services import Progress, io, total_memory
from ..host.train import (
    AS_LOADED,
    WEIGHTS,
    TrainingBackbone,
    cancelled,
    held_as,
    load_weights,
    prepare_training,
    saving_on_cancel,
    training_folder,
    training_mode,
)
from .hero_sockets import ADAPTERS, check_like, read_clip

Result = tuple[HeroLora, torch.Tensor, torch.Tensor, Notes]


@dataclass(frozen=True)
class Sockets:
    """Pictures (N, 3, H, W) as they come: Zero-Stage frames, originals, the edited anchor (3, H, W), and for the mode
    implicit the Zero-Stage frames with the anchor as the reference."""

    zero: torch.Tensor
    frames: torch.Tensor
    reference: torch.Tensor
    anchor: int
    zero_anchor: torch.Tensor | None

    def material(self) -> Material:
        """What the training reads."""
        target = None if self.zero_anchor is None else dict(enumerate(self.zero_anchor))
        references = {self.anchor: self.reference}
        return Material(references, dict(enumerate(self.frames)), dict(enumerate(self.zero)), target)

    def deciding(self) -> list[torch.Tensor]:
        """The pictures that the LoRA depends on."""
        pair = [self.zero[self.anchor], self.frames[self.anchor], self.reference]
        return pair if self.zero_anchor is None else [*pair, self.frames, self.zero_anchor]

    def samples(self) -> tuple[int, ...]:
        """Frames that are restored now and then: anchor, first, middle and last."""
        last = len(self.frames) - 1
        return tuple(sorted({self.anchor, 0, last // 2, last}))


def train(node: type[io.ComfyNode], native: tuple[Any, Any, Any], widgets: Mapping[str, Any]) -> Result:
    """Train to the end, or go on; returns the LoRA, sample pictures, the plot, and what is to be said.

    Raises: InputError naming the socket, Zero2HeroError, the host's InterruptProcessingException after saving.
    """
    notes = Notes(node)
    check_choice("weights", widgets["weights"], WEIGHTS)
    lora_path(widgets["name"])  # a bad name is refused before anything is computed
    with training_mode():
        sockets = read_sockets(widgets)
        _say(notes, sockets)
        backbone = prepare_training(*native)
        start = training_start(backbone, widgets, notes)
        settings, storage = training_settings(backbone, widgets, start), held_as(native[0], widgets["weights"])
        check_memory(backbone, settings, sockets, storage)
        try:
            load_weights(backbone, native[0], widgets["weights"])
            restoring = RestoreSettings.suited(backbone.recommended, guidance_scale=backbone.guidance)
            begun = None if start is None else start.state
            training = Training(backbone, sockets.material(), settings, restoring, start=begun)
            deciding = [*backbone.deciding(), *(begun or {}).values()]
            try:
                return Job(training, sockets, deciding, widgets, notes).run()
            finally:
                training.close()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise Zero2HeroError(
                f"HeroLoRATrainer: out of memory; choose {remedies(settings, storage, backbone.place.type)}."
            ) from error


def read_sockets(widgets: Mapping[str, Any]) -> Sockets:
    """The sockets in the core's layout, checked. Raises: InputError naming the socket."""
    zero, frames = read_clip(widgets["zero_frames"], widgets["frames"])
    check_anchor(widgets["anchor_index"], len(frames))
    reference = read_reference(widgets["reference"], size_hw_of(frames))
    zero_anchor = None
    if widgets["mode"] == "implicit":
        if widgets.get("zero_anchor_frames") is None:
            raise InputError(
                "zero_anchor_frames: the mode implicit needs it; connect a MaskedCiAKSampler whose reference is the "
                "anchor frame itself, or choose another mode."
            )
        zero_anchor = to_core(widgets["zero_anchor_frames"], "zero_anchor_frames")
        check_like("zero_anchor_frames", zero_anchor, frames)
    return Sockets(zero, frames, reference, widgets["anchor_index"], zero_anchor)


def _say(notes: Notes, sockets: Sockets) -> None:
    anchor = sockets.anchor
    if torch.allclose(sockets.reference, sockets.frames[anchor], atol=1 / 255):
        notes.warn("reference equals the anchor frame: there is no edit to learn; connect the edited frame.")
    if torch.allclose(sockets.zero[anchor], sockets.reference, atol=1 / 255):
        notes.warn("the Zero-Stage anchor equals the reference: there is nothing to learn from it.")


def training_start(backbone: TrainingBackbone, widgets: Mapping[str, Any], notes: Notes) -> Start | None:
    """The adapter that the training begins with."""
    adapter = widgets.get("adapter", "auto")
    check_choice("adapter", adapter, ADAPTERS)
    choice = TrainingChoice(
        mode=widgets["mode"], rank=widgets["rank"] or None, adapter=None if adapter == "auto" else adapter
    )
    return find_start(choice, backbone, JobNotes(NodeListener(notes)))


def training_settings(
    backbone: TrainingBackbone, widgets: Mapping[str, Any], start: Start | None = None
) -> HeroSettings:
    """The widgets as the core's settings; 0 (light: -1) stands for what suits the model, and for the adapter that the
    training begins with."""
    advice, own = backbone.recommended, dict[str, Any]()
    if start is not None:
        advice = with_adapter(advice)
        own = {"rank": start.metadata.rank, "alpha": start.metadata.alpha, "layers": start.metadata.spec.layers}
    values = {name: widgets[name] for name in ("rank", "steps", "learning_rate", "crop") if widgets[name]}
    if widgets["light"] >= 0:
        values["light"] = widgets["light"]
    choices = {"mode": widgets["mode"], "checkpointing": widgets["checkpointing"], "seed": widgets["seed"]}
    return HeroSettings.suited(advice, **(values | own), **choices)


def check_memory(backbone: TrainingBackbone, settings: HeroSettings, sockets: Sockets, storage: str) -> None:
    """Raise `InputError` with what to change when the training cannot fit on the device. storage: see `held_as`."""
    float32 = backbone.compute_dtype == torch.float32
    weights = ("fp32" if float32 else "bf16") if storage == AS_LOADED else storage
    estimate = expected_memory(
        backbone, settings, size_hw_of(sockets.frames), weights=weights, device=backbone.place.type, float32=float32
    )
    if estimate.total > (there := total_memory(backbone.place)):
        raise InputError(
            f"model: this training needs about {estimate.total / 1e9:.1f} GB of memory and {backbone.place} has "
            f"{there / 1e9:.1f} GB; choose {remedies(settings, storage, backbone.place.type)}."
        )


def remedies(settings: HeroSettings, storage: str, device: str) -> str:
    """What would make a training take less memory, in words; what is chosen already is left out."""
    smaller = [kind for kind in WEIGHTS[WEIGHTS.index(storage) + 1 :] if kind != "nf4" or device == "cuda"]
    advice = [] if settings.checkpointing else ["checkpointing"]
    advice += [f"weights {' or '.join(smaller)}"] if smaller else []
    advice += ["a smaller rank"] if settings.rank > 1 else []
    return ", ".join([*advice, "a smaller crop"]) + ", or smaller frames"


class TrainingListener(NodeListener):
    """The node's bar counts steps; Cancel is told between them, so that no update is cut in two."""

    def __init__(self, notes: Notes, bar: Progress) -> None:
        super().__init__(notes, bar)
        self._bar, self._steps = bar, 0

    def progress(self, part: str, done: int, total: int | None = None, detail: str = "") -> None:
        """Steps done so far; the first time, where the training goes on."""
        if done and not detail:
            self.notes.say(f"Goes on at step {done} of {total}.")
        if not cancelled():
            self._bar.step(done - self._steps)
        self._steps = done

    def cancelled(self) -> bool:
        """Whether the user pressed Cancel."""
        return cancelled()


class Job:
    """One training in its folder. deciding: what the result depends on besides pictures and settings."""

    def __init__(
        self,
        training: Training,
        sockets: Sockets,
        deciding: Iterable[torch.Tensor],
        widgets: Mapping[str, Any],
        notes: Notes,
    ):
        self.training, self.sockets, self.widgets, self.notes = training, sockets, widgets, notes
        description = f"{asdict(training.trainer.settings)} {widgets['weights']} {sockets.anchor}"
        name = short_digest(description, sockets.deciding(), map(thinned, deciding))
        path = lora_path(widgets["name"])
        self.file, self.folder = path.with_stem(f"{path.stem}_{name}"), training_folder(f"{path.stem}_{name}")
        self.listener = TrainingListener(notes, Progress(training.total))

    def run(self) -> Result:
        """Train what is left of it."""
        if self.file.exists() and (self.folder / PLOT).exists():
            lora = read_hero_lora(self.file)
            self.training.trainer.lora.load_state_dict(lora.state)
            self.notes.say(f"This training was finished before: {self.file.name}.")
            return self._result(lora)
        with locked_folder(self.folder, "the node HeroLoRATrainer"):
            self._train()
        self.notes.say(f"Saved as {self.file.name} in models/loras.")
        return self._result(read_hero_lora(self.file))

    def _train(self) -> None:
        run = self._prepare()
        with saving_on_cancel(run.save):
            run_to_the_end(run, self.listener, resume=True)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.file) as temporary:
                shutil.copyfile(self.folder / LORA, temporary)
        (self.folder / STATE).unlink(missing_ok=True)  # several times the size of the LoRA

    def _prepare(self) -> TrainingRun:
        sockets = self.sockets
        height, width = sockets.frames.shape[-2:]
        thin = sockets.frames[:: max(1, len(sockets.frames) // 16)]
        metadata = self.training.metadata(
            (height, width), short_digest("", [thin]), short_digest("", [sockets.reference])
        )
        settings = RunSettings(self.widgets["save_every"], self.widgets["evaluate_every"] or self.training.total)
        return self.training.in_folder(
            self.folder, metadata, sockets.anchor, sockets.samples(), self.listener, settings=settings
        )

    def _result(self, lora: HeroLora) -> Result:
        pictures = self.training.latest
        if pictures is None:
            pictures = self.training.restored(self.sockets.samples())
            self.listener.preview(torch.cat(list(pictures), 2))
        return lora, pictures, read_image(self.folder / PLOT)[None], self.notes
