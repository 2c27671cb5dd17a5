"""EbSynth's program as a rival, where this machine has it: github.com/jamriska/ebsynth (public domain), built by its
owner; the environment variable EBSYNTH names it.

The guides and weights are those with which Rerender-A-Video and FRESCO call it: the frames' colours (6), their edges
(0.5), the picture before, warped to this frame (0.5), and places in the key (2), warped from frame to frame; holes of a
warp are inpainted (Telea, radius 30). The flow is ours, OpenCV's DIS.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ...checks import InputError, Zero2HeroError
from ...flow.dis import dis_flow, opencv
from ...flow.occlusion import occlusion_map
from ...flow.warp import warp_backward
from ...video.image_reader import read_image
from ...video.image_writer import write_image

VARIABLE = "EBSYNTH"
WEIGHTS = {"colour": 6.0, "edge": 0.5, "temporal": 0.5, "place": 2.0}
OPTIONS = ("-uniformity", "3500", "-patchsize", "5", "-searchvoteiters", "6", "-patchmatchiters", "4")
_INPAINT_RADIUS = 30


def find_ebsynth() -> Path:
    """The program. Raises: InputError where there is none."""
    name = os.environ.get(VARIABLE, "")
    if not name or not os.access(name, os.X_OK):
        raise InputError(
            f"needs EbSynth's program (github.com/jamriska/ebsynth, built for the CPU); set {VARIABLE} to it"
        )
    return Path(name)


def run_ebsynth(frames: torch.Tensor, style: torch.Tensor, key: int) -> torch.Tensor:
    """A style (3, H, W) of the key frame, propagated to all frames (N, 3, H, W), outward from the key.

    Raises: InputError without the program; Zero2HeroError when it fails.
    """
    program, results = find_ebsynth(), frames.clone()
    results[key] = style
    with TemporaryDirectory(prefix="ebsynth_") as folder:
        for side in (range(key + 1, len(frames)), range(key - 1, -1, -1)):
            for index, picture in _one_side(program, Path(folder), frames, style, key, side):
                results[index] = picture
    return results


def _one_side(
    program: Path, folder: Path, frames: torch.Tensor, style: torch.Tensor, key: int, side: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    places = torch.stack([y, x, torch.zeros_like(x)])
    sources = {"colour": frames[key], "edge": _edges(frames[key]), "temporal": style, "place": places}
    write_image(folder / "style.png", style, overwrite=True)
    previous, before, carried = style, frames[key], places
    for index in side:
        flow, back = dis_flow(frames[index], before), dis_flow(before, frames[index])
        holes = occlusion_map(flow, back)
        carried = _filled(warp_backward(carried, flow), holes)
        targets = {"colour": frames[index], "edge": _edges(frames[index]), "place": carried}
        targets["temporal"] = _filled(warp_backward(previous, flow), holes)
        command = [str(program), "-style", str(folder / "style.png"), "-output", str(folder / "out.png"), *OPTIONS]
        command += ["-backend", "cpu"]
        for name, weight in WEIGHTS.items():
            for kind, pictures in (("source", sources), ("target", targets)):
                write_image(folder / f"{kind}_{name}.png", pictures[name], overwrite=True)
            guide = [str(folder / f"{kind}_{name}.png") for kind in ("source", "target")]
            command += ["-guide", *guide, "-weight", str(weight)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Zero2HeroError(f"{program.name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        previous, before = read_image(folder / "out.png"), frames[index]
        yield index, previous


def _edges(picture: torch.Tensor) -> torch.Tensor:
    """Laplacian, negative values cut to 0."""
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None]
    padded = torch.nn.functional.pad(picture[:, None], (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel)[:, 0].clamp(0, 1)


def _filled(picture: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """A picture in [0, 1] with its holes inpainted, 8 bits a value as the program's input is."""
    cv2 = opencv()
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    mask = holes.numpy().astype(np.uint8)
    return (
        torch.from_numpy(cv2.inpaint(pixels, mask, _INPAINT_RADIUS, cv2.INPAINT_TELEA)).permute(2, 0, 1).float() / 255
    )
