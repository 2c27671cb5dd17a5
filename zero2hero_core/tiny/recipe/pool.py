"""Training material: latents of rendered clips and the exact matches between their views, computed once and kept in
memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...files.tensor_file import write_tensors
from ..autoencoder import PatchAutoencoder, fit_patch_autoencoder
from ..scenes.scene import Scene, split_seed

VIEWS = 4  # frames taken from each training clip
CLIP_LENGTH = 16


@dataclass(frozen=True)
class Pool:
    """Latents (M, V, C, G, G); for each ordered pair of views of a clip, where the cells of the first lie in the
    second:
    coordinates (M, V, V, G, G, 2) in latent cells (cell centres at + 0.5), visible (M, V, V, G, G)."""

    latents: torch.Tensor
    coords: torch.Tensor
    visible: torch.Tensor


def log_hundreds(log: Callable[[str], object]) -> Callable[[int, int], None]:
    """A progress of rendering, (clips done, clips), that tells every hundredth clip."""

    def report(done: int, total: int) -> None:
        if done % 100 == 0:
            log(f"rendered {done} of {total} clips")

    return report


def scene_pictures(split: str, count: int, size: int) -> torch.Tensor:
    """One frame (3, S, S) in [-1, 1] from each of `count` scenes, first and second appearances in turn."""
    pictures = []
    for index in range(count):
        scene = Scene(split_seed(split, index), CLIP_LENGTH, size)
        pictures.append(scene.render(index % CLIP_LENGTH, index % 2)[0])
    return torch.stack(pictures) * 2 - 1


def _views(scene: Scene) -> list[int]:
    """The frames that are taken from a training clip."""
    generator = torch.Generator().manual_seed(scene.seed)
    return torch.randperm(CLIP_LENGTH, generator=generator)[:VIEWS].tolist()


def _partner(job: tuple[str, int, int]) -> torch.Tensor:
    split, index, size = job
    torch.set_num_threads(1)
    scene = Scene(split_seed(split, index), CLIP_LENGTH, size)
    pictures = torch.stack([scene.render(view, 1 - index % 2)[0] for view in _views(scene)])
    return (pictures * 255).round().to(torch.uint8)


def build_partners(
    split: str,
    clips: int,
    autoencoder: PatchAutoencoder,
    size: int = 256,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Latents (M, V, C, G, G) of the pool's views in their other appearance, half precision."""
    jobs = [(split, index, size) for index in range(clips)]
    latents = []
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for done, pictures in enumerate(processes.imap(_partner, jobs, chunksize=8)):
            with torch.no_grad():
                latents.append(autoencoder.encode(pictures.float() / 127.5 - 1).latent_dist.mode().half())
            if progress:
                progress(done + 1, clips)
    return torch.stack(latents)


def _clip(job: tuple[str, int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    split, index, size, grid = job
    torch.set_num_threads(1)
    scene = Scene(split_seed(split, index), CLIP_LENGTH, size)
    views = _views(scene)
    appearance = index % 2
    pictures = torch.stack([scene.render(view, appearance)[0] for view in views])
    coords = torch.zeros(VIEWS, VIEWS, grid, grid, 2)
    visible = torch.ones(VIEWS, VIEWS, grid, grid, dtype=torch.bool)
    for a, first in enumerate(views):
        for b, second in enumerate(views):
            coords[a, b], visible[a, b] = scene.correspondence(first, second, grid)
    return (pictures * 255).round().to(torch.uint8), (coords * (grid / size)).half(), visible


def build_pool(
    split: str,
    clips: int,
    autoencoder: PatchAutoencoder,
    size: int = 256,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Pool:
    """Render `clips` scenes of a split with `workers` processes and encode them."""
    grid = size // autoencoder.config.factor
    jobs = [(split, index, size, grid) for index in range(clips)]
    latents, coords, visible = [], [], []
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for done, (pictures, where, seen) in enumerate(processes.imap(_clip, jobs, chunksize=8)):
            with torch.no_grad():
                latents.append(autoencoder.encode(pictures.float() / 127.5 - 1).latent_dist.mode().half())
            coords.append(where.clone())  # a clone frees the file descriptor that the worker's tensor came through
            visible.append(seen.clone())
            if progress:
                progress(done + 1, clips)
    return Pool(torch.stack(latents), torch.stack(coords), torch.stack(visible))


def cached_pool(path: Path, build: Callable[[], Pool]) -> Pool:
    """The pool stored at `path`, built and stored first where there is none."""
    if not path.exists():
        pool = build()
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"latents": pool.latents, "coords": pool.coords, "visible": pool.visible.to(torch.uint8)}
        write_tensors(path, tensors, {})
    stored = load_file(path)
    return Pool(stored["latents"], stored["coords"], stored["visible"].bool())


def fit_autoencoder(
    pictures: int = 400, size: int = 256, factor: int = 8, latent_channels: int = 8
) -> PatchAutoencoder:
    """The bundled autoencoder, from training scenes only."""
    return fit_patch_autoencoder(scene_pictures("train", pictures, size), factor, latent_channels)
