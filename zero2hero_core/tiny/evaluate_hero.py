"""Hero-Stage on rendered clips, where the truth is known: the material of a clip (Zero-Stage results and baselines,
made once), one training and restoring on it, and its measures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..backbones.dit import DiTBackbone
from ..backbones.unet import UNetBackbone
from ..checks import InputError
from ..hero_stage import HeroStage, RestoreSettings
from ..hero_training import HeroSettings, HeroTrainer
from ..hero_training_latents import encode_clip
from ..hero_training_pairs import ClipLatents, training_pairs
from ..metrics import psnr
from ..pixel_swap import pixel_swap
from ..zero_stage import ZeroStage, ZeroStageSettings
from .model import RECOMMENDED
from .scenes import Scene, split_seed

BASELINES = ("identity", "pixel_swap", "zero", "cia", "flow")


@dataclass(frozen=True)
class ClipMaterial:
    """Pictures (N, 3, S, S) in [0, 1] by name, and object masks (N, 1, S, S); frame 0 is the anchor.

    Names: "identity" (the originals), "truth" (second appearance; its frame 0 is the reference), "zero" (I_ref(k)),
    "zero_target" (I_anc(k)), "cia" (plain cross-image attention), "pixel_swap".
    """

    name: str
    pictures: dict[str, torch.Tensor]
    masks: torch.Tensor


def make_material(backbone: UNetBackbone, scene: Scene, name: str, *, batch: int = 4) -> ClipMaterial:
    """Run Zero-Stage and the baselines on all frames of a scene."""
    originals, truth = scene.frames(0), scene.frames(1)
    settings = ZeroStageSettings()
    stages = {
        "zero": ZeroStage(backbone, originals[0], truth[0], 0, settings, dict(enumerate(originals))),
        "zero_target": ZeroStage(backbone, originals[0], originals[0], 0, settings),
        "cia": ZeroStage(backbone, originals[0], truth[0], 0, ZeroStageSettings(k=-1)),
    }
    made: dict[str, list[torch.Tensor]] = {key: [] for key in (*stages, "pixel_swap")}
    for start in range(0, len(originals), batch):
        part = list(range(start, min(start + batch, len(originals))))
        matches = [stages["zero"].correspond(originals[i], i) for i in part]
        for key, stage in stages.items():
            made[key].append(stage.edit(originals[part], part, matches))
        made["pixel_swap"].append(torch.stack([pixel_swap(truth[0], match.finest) for match in matches]))
    pictures = {"identity": originals, "truth": truth} | {key: torch.cat(parts) for key, parts in made.items()}
    return ClipMaterial(name, pictures, scene.masks())


def flow_pictures(material: ClipMaterial) -> torch.Tensor:
    """The reference carried along DIS flow (N, 3, S, S): directly or from frame to frame, whichever is nearer to the
    truth."""

    from ..flow_propagation import propagate_reference

    originals, truth = material.pictures["identity"], material.pictures["truth"]
    moved = [propagate_reference(originals, truth[0], 0, chained=chained) for chained in (False, True)]
    return max(moved, key=lambda pictures: float(psnr(pictures[1:], truth[1:]).mean()))


def zero_settings() -> dict[str, Any]:
    """Settings of Zero-Stage that decide the material, those that the bundled UNet advises among them."""
    return asdict(ZeroStageSettings().resolve(RECOMMENDED))


def cached_material(
    load: Callable[[], UNetBackbone], split: str, index: int, folder: Path, *, frames: int = 16, size: int = 256
) -> ClipMaterial:
    """The material of clip `index` of a split, kept in `folder` with 8 bits a value; found by Zero-Stage's settings
    too, so that another default makes it anew."""
    digest = hashlib.sha256(json.dumps(zero_settings(), sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"material_{split}_{index}_{frames}_{size}_{digest}.safetensors"
    if not path.exists():
        scene = Scene(split_seed(split, index), frames, size)
        material = make_material(load(), scene, f"{split} {index}")
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        tensors = material.pictures | {"masks": material.masks}
        save_file({key: (value * 255).round().to(torch.uint8) for key, value in tensors.items()}, part)
        part.replace(path)
    try:
        stored = {key: value.float() / 255 for key, value in load_file(path).items()}
        masks = stored.pop("masks")
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, it will be made again.") from error
    return ClipMaterial(f"{split} {index}", stored, masks)


def clip_latents(
    backbone: DiTBackbone, material: ClipMaterial, settings: HeroSettings, initial: str = "zero"
) -> ClipLatents:
    """Latents that the modes train on, with the same other lights for every seed. Args: initial: "zero" or "pixel_swap"
    (paper, Table 4)."""
    shown = material.pictures
    return encode_clip(
        backbone,
        settings,
        references={0: shown["truth"][0]},
        zero={0: shown[initial][0]},
        frames=dict(enumerate(shown["identity"])),
        zero_target=dict(enumerate(shown.get("zero_target", ()))),
        light_seed=0,
    )


@dataclass(frozen=True)
class HeroResult:
    """psnr: step -> dB of the whole frame, one value a frame (the anchor first); pictures of the last step; losses;
    seconds of training and of restoring."""

    psnr: dict[int, torch.Tensor]
    psnr_object: dict[int, torch.Tensor]
    pictures: torch.Tensor
    losses: list[float]
    seconds: dict[str, float]


def run_hero(
    backbone: DiTBackbone,
    material: ClipMaterial,
    settings: HeroSettings,
    restore: RestoreSettings,
    *,
    initial: str = "zero",
    at_steps: Sequence[int] = (),
    frames: Sequence[int] | None = None,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> HeroResult:
    """Train on the clip's pair, restore its frames, measure against the truth.

    Args: at_steps: further steps to measure at (0: before training); frames: all when None.
    """
    shown = list(range(len(material.pictures["truth"]))) if frames is None else list(frames)
    latents = clip_latents(backbone, material, settings, initial)
    trainer = HeroTrainer(backbone, training_pairs(settings.mode, latents), settings)
    stage = HeroStage(backbone, trainer.lora, settings.kinds, restore)
    truth, masks = material.pictures["truth"][shown], material.masks[shown]
    whole, inside, losses, seconds = {}, {}, [], {"train": 0.0, "restore": 0.0}
    pictures = truth
    try:
        for step in range(settings.total + 1):
            if step in (*at_steps, settings.total):
                started = time.perf_counter()
                pictures = _restore(stage, material, initial, shown, batch)
                seconds["restore"] += time.perf_counter() - started
                whole[step], inside[step] = psnr(pictures, truth), psnr(pictures, truth, masks)
            if step < settings.total:
                started = time.perf_counter()
                losses.append(trainer.step())
                seconds["train"] += time.perf_counter() - started
            if progress:
                progress(step)
    finally:
        trainer.close()
    return HeroResult(whole, inside, pictures, losses, seconds)


def _restore(stage: HeroStage, material: ClipMaterial, initial: str, shown: list[int], batch: int) -> torch.Tensor:
    parts = []
    for start in range(0, len(shown), batch):
        now = shown[start : start + batch]
        parts.append(stage.restore(material.pictures[initial][now], material.pictures["identity"][now], now))
    return torch.cat(parts)


# Variants of the paper's tables: name -> (mode, initial pictures, share of the steps, factor on the light)
TABLES: dict[int, dict[str, tuple[str, str, float, float]]] = {
    3: {mode: (mode, "zero", 1.0, 1.0) for mode in ("explicit", "implicit", "zero-ref", "tgt-ref")}
    | {f"{mode}, one light": (mode, "zero", 1.0, 0.0) for mode in ("explicit", "tgt-ref")}
    | {"before training": ("explicit", "zero", 0.0, 0.0)},
    4: {
        "pixel swap, half the steps": ("explicit", "pixel_swap", 0.5, 1.0),
        "Zero-Stage, half the steps": ("explicit", "zero", 0.5, 1.0),
        "pixel swap": ("explicit", "pixel_swap", 1.0, 1.0),
        "Zero-Stage": ("explicit", "zero", 1.0, 1.0),
    },
}


class Study:
    """Trainings on clips of a split, each measured once and kept as JSON in `folder`.

    Args: load_zero: gives the Zero-Stage backbone, called only when the material of a clip is not there yet.
    """

    def __init__(
        self,
        backbone: DiTBackbone,
        load_zero: Callable[[], UNetBackbone],
        folder: Path,
        settings: HeroSettings,
        restore: RestoreSettings,
        split: str,
        frames: tuple[int, ...],
    ):
        self.backbone, self.folder, self.settings, self.restore = backbone, folder, settings, restore
        self.split, self.frames, self._load_zero = split, frames, load_zero
        digest = hashlib.sha256()
        for tensor in backbone.transformer.state_dict().values():
            digest.update(tensor.detach().float().numpy().tobytes())
        self._model = digest.hexdigest()
        self._measured: dict[tuple[int, str, int], dict[str, Any]] = {}
        self._materials: dict[int, ClipMaterial] = {}

    def described(self) -> dict[str, Any]:
        """What decides the figures."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("mode", "seed")}
        return {
            "model": self._model,
            "zero": zero_settings(),
            "training": settings,
            "restoring": asdict(self.restore),
            "frames": self.frames,
        }

    def material(self, clip: int) -> ClipMaterial:
        """Zero-Stage results and baselines of a clip."""
        if clip not in self._materials:
            self._materials = {clip: cached_material(self._load_zero, self.split, clip, self.folder)}
        return self._materials[clip]

    def measure(self, clip: int, variant: str, settings: HeroSettings) -> dict[str, Any]:
        """PSNR by frame (whole, inside the object) and losses of one training; read from its file if done before."""
        mode, initial, share, light = next(table[variant] for table in TABLES.values() if variant in table)
        kinds = HeroSettings(mode=mode).kinds
        share *= 1.5 if len(kinds) == 1 else 1.0  # the same time
        steps = max(1, round(settings.total * share))
        at = steps if share else 0
        shows = "frame" in kinds
        settings = replace(settings, mode=mode, steps=steps, light=settings.light * light if shows else 0.0)
        key = json.dumps([self.described(), asdict(settings), initial, self.split, clip], sort_keys=True)
        path = self.folder / "runs" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
        else:
            material = self.material(clip)
            made = run_hero(
                self.backbone, material, settings, self.restore, initial=initial, at_steps=(at,), frames=self.frames
            )
            result = {
                "psnr": made.psnr[at].tolist(),
                "psnr_object": made.psnr_object[at].tolist(),
                "losses": made.losses,
                "seconds": made.seconds,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"key": json.loads(key)} | result), encoding="utf-8")
            part.replace(path)
        self._measured[clip, variant, settings.seed] = result
        return result

    def rows(self, variants: Sequence[str], clips: Sequence[int], seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
        """Averages, spreads, anchor and last frame of each variant."""
        table = {}
        places = [place for place, frame in enumerate(self.frames) if frame != 0]
        for variant in variants:
            runs = [[self._measured[clip, variant, seed] for seed in seeds] for clip in clips]
            values = torch.tensor([[run["psnr"] for run in row] for row in runs])
            inside = torch.tensor([[run["psnr_object"] for run in row] for row in runs])
            by_seed = values.mean((0, 2))
            seconds = [run["seconds"]["train"] for row in runs for run in row]
            table[variant] = _summary(values[..., places].mean(1)) | {
                "average": float(values.mean()),
                "seed_spread": float(by_seed.std()) if len(by_seed) > 1 else 0.0,
                "anchor": float(values[..., 0].mean()),
                "last": float(values[..., -1].mean()),
                "object": float(inside.mean()),
                "train_seconds": sum(seconds) / len(seconds),
            }
        return table

    def baselines(self, clips: Sequence[int]) -> dict[str, dict[str, Any]]:
        """The same of the pictures that need no training, without the anchor: some give it back as it was."""
        table = {}
        places = [place for place, frame in enumerate(self.frames) if frame != 0]
        wanted = [self.frames[place] for place in places]
        for name in BASELINES:
            values = []
            for clip in clips:
                material = self.material(clip)
                pictures = flow_pictures(material) if name == "flow" else material.pictures[name]
                values.append(psnr(pictures[wanted], material.pictures["truth"][wanted]))
            stacked = torch.stack(values)
            table[name] = _summary(stacked) | {"last": float(stacked[:, -1].mean())}
        return table


def _summary(values: torch.Tensor) -> dict[str, Any]:
    """Mean over frames other than the anchor, its spread over clips, and the means by clip and by frame."""
    by_clip = values.mean(1)
    return {
        "others": float(values.mean()),
        "spread": float(by_clip.std()) if len(by_clip) > 1 else 0.0,
        "clips": by_clip.tolist(),
        "by_frame": values.mean(0).tolist(),
    }
