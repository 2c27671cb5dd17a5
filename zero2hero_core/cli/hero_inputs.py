"""What the Hero-Stage commands read: model, settings, Zero-Stage frames, further references."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ..backbones.flux.dit import DiTBackbone
from ..checks import InputError
from ..hero_stage.sampling import RestoreSettings
from ..hero_stage.training.trainer import HeroSettings
from ..jobs.clip import Clip, fingerprint, note, open_clip, pick_device
from ..jobs.frames import FRAMES
from ..video.resize import resize_frames
from ..video.source import read_image


def load_hero_model(args: argparse.Namespace) -> DiTBackbone:
    """The model that --tiny or --model asks for, on the wanted device."""
    if args.tiny:
        from ..tiny.dit import load_tiny_dit

        unused = [name for name in ("dtype", "weights", "vae", "text_embedding") if getattr(args, name) is not None]
        if unused or args.hero_prompt:
            name = (unused or ["hero_prompt"])[0].replace("_", "-")
            raise InputError(f"--{name}: the tiny DiT takes none; leave it out or give --model.")
        return load_tiny_dit(device=pick_device(args.device))
    from ..backbones.flux.loading import load_dit

    return load_dit(
        args.model,
        device=args.device,
        dtype=args.dtype,
        weights=args.weights,
        prompt=args.hero_prompt,
        text=args.text_embedding,
        vae=args.vae,
    )


def hero_settings(args: argparse.Namespace, backbone: DiTBackbone) -> HeroSettings:
    """Training settings: what the user said, else what suits the model, else the defaults."""
    given: dict[str, Any] = {
        "rank": args.rank,
        "learning_rate": args.learning_rate,
        "decay": args.decay,
        "batch": args.pairs,
        "draws": args.draws,
        "crop": args.crop,
        "light": args.light,
        "shift": args.shift,
        "high_noise": args.high_noise,
        "steps": args.train_steps,
    }
    return HeroSettings.suited(
        backbone.recommended,
        **{name: value for name, value in given.items() if value is not None},
        mode=args.mode,
        alpha=args.alpha,
        layers=tuple(args.lora_layers),
        optimiser=args.optimiser,
        checkpointing=args.checkpointing,
        seed=args.train_seed,
    )


def restore_settings(args: argparse.Namespace, backbone: DiTBackbone) -> RestoreSettings:
    """Sampling settings, in the same order of preference."""
    given = {"num_inference_steps": args.sample_steps, "samples": args.samples}
    return RestoreSettings.suited(
        backbone.recommended,
        **{name: value for name, value in given.items() if value is not None},
        guidance_scale=args.hero_guidance,
        seed=args.noise_seed,
        strengths=tuple(args.strength),
    )


class ZeroFrames:
    """Frames that `zero2hero zero` wrote, by their index in the original clip; of several folders, the first that has a
    frame counts."""

    def __init__(self, names: list[str], option: str = "--zero"):
        self.folders, self.option = [Path(name) for name in names], option
        for folder in self.folders:
            if not (folder / FRAMES).is_dir():
                raise InputError(
                    f"{option} {folder}: expected a folder that `zero2hero zero` wrote, with {FRAMES}/ in it."
                )
        self.state = _read_state(self.folders[0])

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """(H, W) of the frames, where their run told it."""
        size = self.state.get("size")
        return (size[1], size[0]) if isinstance(size, list) and len(size) == 2 else None

    def path(self, index: int) -> Path | None:
        """File of a frame; None where no folder has it."""
        paths = (folder / FRAMES / f"frame_{index:06d}.png" for folder in self.folders)
        return next((path for path in paths if path.exists()), None)

    def need(self, indices: list[int]) -> None:
        """Raise `InputError` that names how many and which frames are missing."""
        missing = [index for index in indices if self.path(index) is None]
        if missing:
            where = ", ".join(str(folder) for folder in self.folders)
            raise InputError(
                f"{self.option}: expected {len(indices)} frames in {where}, but {len(missing)} are missing, the "
                f"first is frame {missing[0]}; run `zero2hero zero` for the same frames (--start, --stop, --stride)."
            )

    def read(self, index: int, size_hw: tuple[int, int]) -> torch.Tensor:
        """A frame (3, H, W) at the wanted size; its shape must be the clip's."""
        path = self.path(index)
        if path is None:
            raise InputError(f"{self.option}: frame {index} is missing; run `zero2hero zero` for it.")
        picture = read_image(path)
        h, w = picture.shape[-2:]
        if abs(w * size_hw[0] / (h * size_hw[1]) - 1) > 0.02:
            raise InputError(
                f"{path}: expected the shape of the frames ({size_hw[1]} x {size_hw[0]}), got {w} x {h}; choose the "
                "same clip, --size and --policy as for `zero2hero zero`."
            )
        return resize_frames(picture[None], size_hw)[0]


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "zero.json"
    if not path.exists():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the Zero-Stage frames again.") from error
    return state if isinstance(state, dict) else {}


def open_hero_clip(args: argparse.Namespace, zero: ZeroFrames, notes: list[str], multiple: int) -> Clip:
    """The chosen frames, at the size of the Zero-Stage frames unless --size says another."""
    given = argparse.Namespace(**vars(args))
    if given.size is None and zero.size_hw is not None:
        given.size = zero.size_hw
    if "anchor" not in vars(given):
        given.anchor = given.start
    if (policy := zero.state.get("policy", args.policy)) != args.policy:
        raise InputError(f"--policy: expected {policy}, as for `zero2hero zero`, got {args.policy}.")
    clip = open_clip(given, multiple, notes=notes)
    if zero.state.get("video sha256", digest := fingerprint(args.video)) != digest:
        note(notes, "the Zero-Stage frames were made from another file than --video")
    if zero.size_hw not in (None, clip.size_hw):
        h, w = clip.size_hw
        note(notes, f"the Zero-Stage frames are resized to {w} x {h}")
    return clip


def extra_references(args: argparse.Namespace) -> dict[int, str]:
    """What --also says: index -> picture."""
    found: dict[int, str] = {}
    for text in args.also:
        number, equals, path = text.partition("=")
        if not (equals and number.isdecimal() and path):
            raise InputError(f"--also: expected INDEX=PICTURE like 12=edit12.png, got '{text}'.")
        if int(number) in found or int(number) == args.anchor:
            raise InputError(f"--also: frame {number} is given twice; give one reference per frame.")
        found[int(number)] = path
    return found
