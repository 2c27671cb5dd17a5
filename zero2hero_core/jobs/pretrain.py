"""The job of `zero2hero hero pretrain`: Hero-Stage's LoRA trained once over many clips whose truth is known, so that a
new clip needs few steps of its own, or none.

Nothing of it is in the paper, which trains on the one pair of a clip. The folder gets the LoRA, the same in half
precision to be shipped, log.csv with PSNR on held-out clips, and a plot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError, check_range, setting
from ..files.guard import Results, content
from ..files.json_file import write_json
from ..hero_stage.lora.adapters import HeroLoRA
from ..hero_stage.lora.file import HeroMetadata, save_lora
from ..hero_stage.lora.reduction import reduce_rank
from ..hero_stage.stage import HeroStage
from ..hero_stage.training.clip_pairs import WORN, ClipPairs
from ..hero_stage.training.run import RESULTS, Evaluation, RunSettings, TrainingRun
from ..hero_stage.training.trainer import HeroSettings, HeroTrainer
from ..spread import spread
from ..version import __version__
from .folder import job_folder
from .frames import REPORT
from .hero_settings import RestoreChoice, TrainingChoice
from .known_clips import CARRIED, ZERO, CarriedClip, KnownClip, check_carriers, make_all
from .listener import Listener
from .models import DiTModel, SDModel, load_dit, load_unet
from .request import flat_values
from .state import check_same, read_state, tensor_digest
from .training import LORA, STATE, run_to_the_end

RUN_STATE, ADAPTER = "pretrain.json", "adapter.safetensors"
ALL_RESULTS = RESULTS | Results((REPORT, RUN_STATE, ADAPTER))
STEPS, BATCH, RANK = 6000, 4, 32  # where neither the user nor the paper says how long many clips are trained on
_LOOKED_AT = 3  # frames of each held-out clip


@dataclass(frozen=True)
class PretrainRequest:
    """A training over many clips.

    carriers: what carried the edits that the LoRA learns to restore: Zero-Stage, propagation, and a simulation of the
        wear of any tool.
    frames: of each clip, spread over it.
    pictures: folder for what the carriers made, which other runs take up; None is one beside `out`.
    adapter_rank: of the file to be shipped, by singular values; None is the trained one's.
    tiny: the bundled models, else hero_model and, for Zero-Stage, zero_model. out, resume, overwrite: as
        `OutputRequest`.
    """

    training: TrainingChoice
    restoring: RestoreChoice
    out: str | Path
    tiny: bool = False
    zero_model: str | None = None
    hero_model: str | None = None
    device: str = "auto"
    weights: str | None = None
    vae: str | None = None
    text_embedding: str | None = None
    carriers: tuple[str, ...] = (ZERO, CARRIED, WORN)
    frames: int = 5
    pictures: str | None = None
    adapter_rank: int | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_carriers(self.carriers)
        check_range(setting("frames"), self.frames, 2, 10_000)
        needed = [self.hero_model] + ([self.zero_model] if ZERO in self.carriers else [])
        if self.tiny == any((self.hero_model, self.zero_model)) or (not self.tiny and not all(needed)):
            both = f"{setting('hero_model')} together with {setting('zero_model')} (for the carrier {ZERO})"
            raise InputError(f"models: expected {setting('tiny')}, or {both}.")
        if self.adapter_rank is not None:
            check_range(setting("adapter_rank"), self.adapter_rank, 1, self.training.rank or RANK)
            if self.training.alpha is not None:
                raise InputError(f"{setting('adapter_rank')}: expected no {setting('alpha')} beside it; leave it out.")

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
        )


def run(
    request: PretrainRequest, clips: Sequence[KnownClip], held_out: Sequence[KnownClip], listener: Listener
) -> dict[str, Any]:
    """Make the pictures that are missing, then train; returns the report.

    Args: held_out: clips that are measured on the way, of other content than `clips`.
    Raises: InputError; Unfinished when cancelled: a checkpoint is kept.
    """
    if shared := {clip.digest for clip in clips} & {clip.digest for clip in held_out}:
        raise InputError(
            f"{setting('held_out')}: expected other clips than those of {setting('clips')}, but {len(shared)} "
            "are in both."
        )
    if not clips:
        raise InputError(f"{setting('clips')}: expected at least one clip whose truth is known, got none.")
    with job_folder(flat_values(request), "hero pretrain", ALL_RESULTS, remedies=("resume", "overwrite")) as out:
        return _run(request, list(clips), list(held_out), out, listener)


def _run(
    request: PretrainRequest, clips: list[KnownClip], held_out: list[KnownClip], out: Path, listener: Listener
) -> dict[str, Any]:
    start = time.perf_counter()
    backbone = load_dit(request.hero)
    settings = _settings(request, backbone)
    state = _state(request, backbone, settings, clips)
    if request.resume and (out / STATE).exists():
        check_same(read_state(out / RUN_STATE), state)
    elif request.resume and content(out) and not (out / RUN_STATE).exists():
        raise InputError(f"{setting('resume')}: {out} holds no {RUN_STATE} of an earlier run; choose its folder.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN_STATE, state)
    unet = None
    if ZERO in request.carriers:
        unet = load_unet(SDModel(tiny=request.tiny, model=request.zero_model, device=request.device))
    many = (request.carriers, request.frames, unet, listener)
    final = Path(request.out)
    folder = Path(request.pictures) if request.pictures else final.with_name(f"{final.name}_pictures")
    made = make_all([*clips, *held_out], folder, *many)
    known, watched = made[: len(clips)], made[len(clips) :]
    del unet
    ready = time.perf_counter()
    pairs = ClipPairs(backbone, known, request.carriers, mode=settings.mode, shift=settings.shift)
    trainer = HeroTrainer(backbone, pairs, settings)
    try:
        training = _training(request, out, trainer, watched or known[:1], bool(watched), listener)
        first = run_to_the_end(training, listener, resume=request.resume)
        metadata = replace(training.metadata, step=trainer.done)
        state_dict = {name: tensor.clone() for name, tensor in trainer.lora.state_dict().items()}
    finally:
        trainer.close()
    _ship(request, out, backbone, settings, state_dict, metadata)
    rows = [row for row in training.log.rows() if "psnr_truth" in row]
    report = {
        "command": "hero pretrain",
        "lora": str(out / LORA),
        "adapter": str(out / ADAPTER),
        "clips": len(clips),
        "held_out": len(held_out),
        "steps": trainer.done,
        "resumed_at": first,
        "evaluations": rows,
        "state": state,
        "seconds": {
            "pictures": round(ready - start, 3),
            **{name: round(value, 3) for name, value in training.seconds.items()},
            "total": round(time.perf_counter() - start, 3),
        },
    }
    write_json(out / REPORT, report)
    if rows:
        listener.say(
            f"{trainer.done} steps over {len(clips)} clips; {len(held_out)} held-out clips: "
            f"{rows[0]['psnr_truth']:.2f} dB before, {rows[-1]['psnr_truth']:.2f} dB after"
        )
    listener.say(f"adapter: {out / ADAPTER}")
    return report


def _ship(
    request: PretrainRequest,
    out: Path,
    backbone: DiTBackbone,
    settings: HeroSettings,
    weights: dict[str, torch.Tensor],
    metadata: HeroMetadata,
) -> None:
    """Write the adapter in half precision, at the rank that is asked for."""
    rank = request.adapter_rank or settings.rank
    if rank != settings.rank:
        weights = reduce_rank(weights, rank)
    lora = HeroLoRA(backbone, len(settings.kinds), replace(settings, rank=rank, alpha=None).spec)
    try:
        lora.load_state_dict(weights)
        kept = replace(metadata, rank=rank, alpha=float(lora.spec.alpha or rank))
        save_lora(out / ADAPTER, lora, kept, dtype=torch.float16)
    finally:
        lora.remove()


def _settings(request: PretrainRequest, backbone: DiTBackbone) -> HeroSettings:
    """What suits many clips, where the user does not say: more pairs a step and another length; light is real here."""
    choice = request.training
    many = replace(
        choice,
        train_steps=choice.train_steps or STEPS,
        pairs=choice.pairs or BATCH,
        rank=choice.rank or RANK,
        light=0.0 if choice.light is None else choice.light,
    )
    return many.settings(backbone.recommended)


def _state(
    request: PretrainRequest, backbone: DiTBackbone, settings: HeroSettings, clips: list[KnownClip]
) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": backbone.name,
        "model sha256": tensor_digest(backbone.transformer.state_dict().values(), 64),
        "carriers": list(request.carriers),
        "frames of a clip": request.frames,
        "clips": {clip.name: clip.digest for clip in clips},
        **{name: value for name, value in asdict(settings).items() if name not in ("layers", "steps")},
        "layers": list(settings.layers),
    }


def _training(
    request: PretrainRequest,
    out: Path,
    trainer: HeroTrainer[DiTBackbone],
    watched: list[CarriedClip],
    is_held_out: bool,
    listener: Listener,
) -> TrainingRun:
    """The run in its folder. Frames of all watched clips are numbered through."""
    choice = request.training
    restoring = request.restoring.settings(trainer.backbone.recommended)
    stage = HeroStage(trainer.backbone, trainer.lora, trainer.settings.kinds, restoring)
    carriers = [name for name in request.carriers if name != WORN] or [WORN]
    places = [
        (clip, clip.numbers[place], carrier)
        for clip in watched
        for place in spread(len(clip.numbers), _LOOKED_AT)
        for carrier in carriers
    ]

    def read(place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clip, number, carrier = places[place]
        picture = clip.read(number, carrier)
        return picture.frame, picture.truth, picture.truth if picture.carried is None else picture.carried

    def restore(numbers: list[int]) -> torch.Tensor:
        pictures = []
        for number in numbers:
            frame, _, carried = read(number)
            pictures.append(stage.restore(carried[None], frame[None], [number])[0])
        listener.preview(torch.cat(pictures[:4], 2))
        return torch.stack(pictures)

    truths = {number: read(number)[1] for number in range(len(places))} if is_held_out else {}
    zero = {number: read(number)[2] for number in truths}
    metadata = HeroMetadata.of(trainer.lora, mode=trainer.settings.mode, resolution="")
    options = RunSettings(choice.save_every, choice.evaluate_every, choice.patience)
    return TrainingRun(
        trainer,
        out,
        metadata,
        Evaluation(restore, (0, read(0)[1]), truths, zero, tuple(range(min(4, len(places))))),
        options,
        stop=listener.cancelled,
        progress=lambda step, loss: listener.progress("training", step, trainer.settings.total, f"loss {loss:.3f}"),
    )
