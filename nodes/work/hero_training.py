"""The work of HeroLoRATrainer: the core's training in a folder of its own, on the MODEL's weights.

The folder's name holds a digest of everything that decides the result. So an interrupted training is found again, and a
finished one is not repeated.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...zero2hero_core.checks import InputError, Zero2HeroError
from ...zero2hero_core.hero_stage.lora.file import HeroMetadata
from ...zero2hero_core.hero_stage.memory.estimate import estimate_training
from ...zero2hero_core.hero_stage.memory.model_size import ModelSize
from ...zero2hero_core.hero_stage.sampling import RestoreSettings
from ...zero2hero_core.hero_stage.stage import HeroStage
from ...zero2hero_core.hero_stage.training.latents import encode_clip
from ...zero2hero_core.hero_stage.training.pairs import ClipLatents, training_pairs
from ...zero2hero_core.hero_stage.training.run import LORA, PLOT, STATE, Evaluation, RunSettings, TrainingRun
from ...zero2hero_core.hero_stage.training.trainer import HeroSettings, HeroTrainer
from ...zero2hero_core.memory_batches import is_out_of_memory
from ...zero2hero_core.video.source import read_image
from ..convert.checks import check_anchor, check_choice, read_reference
from ..convert.pictures import size_hw_of, to_core
from ..host.lora_files import HeroLora, lora_path, read_hero_lora
from ..host.notes import Notes
from ..host.services import Progress, io, total_memory
from ..host.train import (
    TrainingBackbone,
    cancelled,
    held_as,
    load_weights,
    prepare_training,
    saving_on_cancel,
    training_folder,
    training_mode,
)
from .hero_sockets import AS_LOADED, WEIGHTS, check_like, read_clip

Result = tuple[HeroLora, torch.Tensor, torch.Tensor, Notes]


@dataclass(frozen=True)
class Material:
    """Pictures (N, 3, H, W) that a training reads: Zero-Stage frames, originals, the edited anchor (3, H, W), and for
    the mode implicit the Zero-Stage frames with the anchor as the reference."""

    zero: torch.Tensor
    frames: torch.Tensor
    reference: torch.Tensor
    anchor: int
    zero_anchor: torch.Tensor | None

    def deciding(self) -> list[torch.Tensor]:
        """The pictures that the LoRA depends on."""
        pair = [self.zero[self.anchor], self.frames[self.anchor], self.reference]
        return pair if self.zero_anchor is None else [*pair, self.frames, self.zero_anchor]

    def shown(self) -> tuple[int, ...]:
        """Frames of the samples: anchor, first, middle and last."""
        last = len(self.frames) - 1
        return tuple(sorted({self.anchor, 0, last // 2, last}))


def train(node: type[io.ComfyNode], native: tuple[Any, Any, Any], given: Mapping[str, Any]) -> Result:
    """Train to the end, or go on; returns the LoRA, sample pictures, the plot, and what is to be said.

    Raises: InputError naming the socket, Zero2HeroError, the host's InterruptProcessingException after saving.
    """
    notes = Notes(node)
    check_choice("weights", given["weights"], WEIGHTS)
    lora_path(given["name"])  # a bad name is refused before anything is computed
    with training_mode():
        material = read_material(given)
        _say(notes, material)
        backbone = prepare_training(*native)
        settings, held = training_settings(backbone, given), held_as(native[0], given["weights"])
        check_memory(backbone, settings, material, held)
        try:
            load_weights(backbone, native[0], given["weights"])
            pairs = training_pairs(settings.mode, clip_latents(backbone, settings, material))
            trainer = HeroTrainer(backbone, pairs, settings)
            try:
                return Job(trainer, material, given, notes).run()
            finally:
                trainer.close()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise Zero2HeroError(
                f"HeroLoRATrainer: out of memory; choose {remedies(settings, held, backbone.place.type)}."
            ) from error


def read_material(given: Mapping[str, Any]) -> Material:
    """The sockets in the core's layout, checked. Raises: InputError naming the socket."""
    zero, frames = read_clip(given["zero_frames"], given["frames"])
    check_anchor(given["anchor_index"], len(frames))
    reference = read_reference(given["reference"], size_hw_of(frames))
    zero_anchor = None
    if given["mode"] == "implicit":
        if given.get("zero_anchor_frames") is None:
            raise InputError(
                "zero_anchor_frames: the mode implicit needs it; connect a MaskedCiAKSampler whose reference is the "
                "anchor frame itself, or choose another mode."
            )
        zero_anchor = to_core(given["zero_anchor_frames"], "zero_anchor_frames")
        check_like("zero_anchor_frames", zero_anchor, frames)
    return Material(zero, frames, reference, given["anchor_index"], zero_anchor)


def _say(notes: Notes, material: Material) -> None:
    anchor = material.anchor
    if torch.allclose(material.reference, material.frames[anchor], atol=1 / 255):
        notes.warn("reference equals the anchor frame: there is no edit to learn; connect the edited frame.")
    if torch.allclose(material.zero[anchor], material.reference, atol=1 / 255):
        notes.warn("the Zero-Stage anchor equals the reference: there is nothing to learn from it.")


def training_settings(backbone: TrainingBackbone, given: Mapping[str, Any]) -> HeroSettings:
    """The widgets as the core's settings; 0 (light: -1) stands for what suits the model."""
    chosen = {name: given[name] for name in ("rank", "steps", "learning_rate", "crop") if given[name]}
    if given["light"] >= 0:
        chosen["light"] = given["light"]
    fixed = {"mode": given["mode"], "checkpointing": given["checkpointing"], "seed": given["seed"]}
    return HeroSettings.suited(backbone.recommended, **chosen, **fixed)


def check_memory(backbone: TrainingBackbone, settings: HeroSettings, material: Material, held: str) -> None:
    """Raise `InputError` with what to change when the training cannot fit on the device. held: see `held_as`."""
    wide = "fp32" if backbone.compute_dtype == torch.float32 else "bf16"
    estimate = estimate_training(
        ModelSize.from_config(backbone.transformer.config, text_tokens=backbone.text.tokens.shape[1]),
        resolution=settings.seen(size_hw_of(material.frames), backbone.multiple),
        rank=settings.rank,
        weights=wide if held == AS_LOADED else held,
        conditions=len(settings.kinds),
        checkpointing=settings.checkpointing,
        batch=settings.batch,
        draws=settings.draws,
        device=backbone.place.type,
        float32=wide == "fp32",
    )
    if estimate.total > (there := total_memory(backbone.place)):
        raise InputError(
            f"model: this training needs about {estimate.total / 1e9:.1f} GB of memory and {backbone.place} has "
            f"{there / 1e9:.1f} GB; choose {remedies(settings, held, backbone.place.type)}."
        )


def remedies(settings: HeroSettings, held: str, device: str) -> str:
    """What would make a training take less memory, in words; what is chosen already is left out."""
    smaller = [kind for kind in WEIGHTS[WEIGHTS.index(held) + 1 :] if kind != "nf4" or device == "cuda"]
    found = [] if settings.checkpointing else ["checkpointing"]
    found += [f"weights {' or '.join(smaller)}"] if smaller else []
    found += ["a smaller rank"] if settings.rank > 1 else []
    return ", ".join([*found, "a smaller crop"]) + ", or smaller frames"


def clip_latents(backbone: TrainingBackbone, settings: HeroSettings, material: Material) -> ClipLatents:
    """Latents that the mode draws its pairs from."""
    anchor, target = material.anchor, material.zero_anchor
    wanted = [anchor] if target is None else range(len(material.frames))
    return encode_clip(
        backbone,
        settings,
        references={anchor: material.reference},
        zero={anchor: material.zero[anchor]} if "zero" in settings.kinds else {},
        frames={index: material.frames[index] for index in wanted},
        zero_target={} if target is None else dict(enumerate(target)),
    )


class Job:
    """One training in its folder."""

    def __init__(
        self, trainer: HeroTrainer[TrainingBackbone], material: Material, given: Mapping[str, Any], notes: Notes
    ):
        self.trainer, self.material, self.given, self.notes = trainer, material, given, notes
        settings, backbone = trainer.settings, trainer.backbone
        restoring = RestoreSettings.suited(backbone.recommended, guidance_scale=backbone.guidance)
        self.stage = HeroStage(backbone, trainer.lora, settings.kinds, restoring)
        described = f"{asdict(settings)} {given['weights']} {material.anchor}"
        name = digest(described, material.deciding(), map(thinned, backbone.deciding()))
        path = lora_path(given["name"])
        self.file, self.folder = path.with_stem(f"{path.stem}_{name}"), training_folder(f"{path.stem}_{name}")
        self.progress = Progress(settings.total)
        self.pictures: torch.Tensor | None = None

    def run(self) -> Result:
        """Train what is left of it."""
        if self.file.exists() and (self.folder / PLOT).exists():
            lora = read_hero_lora(self.file)
            self.trainer.lora.load_state_dict(lora.state)
            self.notes.say(f"This training was finished before: {self.file.name}.")
            return self._result(lora)
        run = self._prepare()
        begun = run.resume()
        if begun:
            self.notes.say(f"Goes on at step {begun} of {self.trainer.settings.total}.")
            self.progress.step(begun)
        with saving_on_cancel(run.save):
            run.run()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / LORA, self.file)
        (self.folder / STATE).unlink(missing_ok=True)  # several times the size of the LoRA
        self.notes.say(f"Saved as {self.file.name} in models/loras.")
        return self._result(read_hero_lora(self.file))

    def _prepare(self) -> TrainingRun:
        material, settings = self.material, self.trainer.settings
        height, width = material.frames.shape[-2:]
        metadata = HeroMetadata.of(
            self.trainer.lora,
            mode=settings.mode,
            resolution=f"{width}x{height}",
            clip_hash=digest("", [material.frames[:: max(1, len(material.frames) // 16)]]),
            anchor_hash=digest("", [material.reference]),
        )
        evaluation = Evaluation(self.restore, (material.anchor, material.reference), {}, {}, material.shown())
        return TrainingRun(
            self.trainer,
            self.folder,
            metadata,
            evaluation,
            RunSettings(self.given["save_every"], self.given["evaluate_every"] or settings.total),
            stop=cancelled,
            progress=lambda step, loss: None if cancelled() else self.progress.step(),
        )

    def restore(self, indices: list[int]) -> torch.Tensor:
        """Frames (B, 3, H, W) restored with what has been learned so far, one by one; shown on the node."""
        zero, frames = self.material.zero, self.material.frames
        self.pictures = torch.cat([self.stage.restore(zero[i, None], frames[i, None], [i]) for i in indices])
        self.progress.step(0, torch.cat(list(self.pictures), 2))
        return self.pictures

    def _result(self, lora: HeroLora) -> Result:
        pictures = self.restore(list(self.material.shown())) if self.pictures is None else self.pictures
        return lora, pictures, read_image(self.folder / PLOT)[None], self.notes


def thinned(tensor: torch.Tensor) -> torch.Tensor:
    """About 64 of a tensor's values: enough to tell models apart, without reading gigabytes."""
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // 64)].float()


def digest(text: str, *groups: Iterable[torch.Tensor]) -> str:
    """Ten hexadecimal digits of a text and of tensors, shapes and values."""
    found = hashlib.sha256(text.encode())
    for tensor in (tensor for group in groups for tensor in group):
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:10]
