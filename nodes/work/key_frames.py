"""The work of the key-frame nodes: sockets and widgets into the jobs of the core, progress, sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...zero2hero_core.checks import InputError
from ...zero2hero_core.jobs.flow import BYTES_PER_PIXEL, ClipMotion, FlowSettings, clip_motion
from ...zero2hero_core.jobs.frame_numbers import frame_numbers_text, read_frame_numbers
from ...zero2hero_core.jobs.keyframes import KeyFrames, choose_key_frames
from ...zero2hero_core.propagation.key_frames import KeyFrameSettings
from ..convert.checks import socket_words
from ..convert.pictures import to_core, to_host
from ..host.notes import Notes
from ..host.optical_flow import loaded_network
from ..host.services import Progress, free_memory, io

ENGINES = ["dis", "raft"]
LAWS = ["unflow", "sundaram"]
METHODS = ["advice", "uniform", "adaptive"]
SHOWN = 8  # pairs whose flow is shown
SHARE = 0.8  # of the free memory that flows may take
_TRIED = 40  # about so many frames are tried for advice


@dataclass(frozen=True)
class Motion:
    """What OpticalFlow gives. pictures: (P, 3, H, 2 W)."""

    found: ClipMotion
    pictures: torch.Tensor
    notes: Notes


@dataclass(frozen=True)
class Selected:
    """What SelectKeyFrames gives. key_frames: IMAGE (K, H, W, 3); picture: (3, h, w)."""

    result: KeyFrames
    key_frames: torch.Tensor
    picture: torch.Tensor
    notes: Notes

    @property
    def text(self) -> str:
        """The numbers of the key frames."""
        return frame_numbers_text(self.result.keys)

    @property
    def following(self) -> int:
        """The frame to edit next, -1 where none was looked for."""
        return -1 if self.result.following is None else self.result.following.frame


def find_motion(node: type[io.ComfyNode], frames: Any, optical_flow: Any, widgets: dict[str, Any]) -> Motion:
    """The flows between all neighbours. Raises: InputError naming the socket."""
    images, notes = to_core(frames, "frames"), Notes(node)
    settings = FlowSettings(**widgets)
    _check_memory(images)
    network, device = (None, torch.device("cpu")) if optical_flow is None else loaded_network(optical_flow)
    progress = Progress(max(1, len(images) - 1))
    found = clip_motion(
        images, settings, network=network, device=device, on_pair=lambda picture: progress.step(1, picture)
    )
    shares = [float(maps.mean()) for maps in (found.hidden_next[:-1], found.hidden_previous[1:])]
    notes.say(f"the next frame hides {shares[0]:.1%} of the pixels, the one before {shares[1]:.1%}, on average.")
    return Motion(found, found.pictures(images, SHOWN), notes)


def _check_memory(images: torch.Tensor) -> None:
    count, _, height, width = images.shape
    need, free = count * height * width * BYTES_PER_PIXEL, free_memory("cpu")
    if need > SHARE * free:
        raise InputError(
            f"frames: the flows of {count} frames of {width} x {height} need {need / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; load fewer or smaller frames."
        )


def select_frames(node: type[io.ComfyNode], frames: Any, flow: Any, widgets: dict[str, Any]) -> Selected:
    """Choose key frames. flow: the ClipFlows of the frames, or None. Raises: InputError naming the socket."""
    images, notes = to_core(frames, "frames"), Notes(node)
    count = widgets["count"] or None
    with socket_words({"keys": "keys_so_far"}):
        settings = KeyFrameSettings(
            widgets["method"], widgets["every"], widgets["smallest_gap"], widgets["largest_gap"], count
        )
        keys = read_frame_numbers("keys", widgets["keys_so_far"])
        chains = _TRIED if settings.method == "advice" else len(images) // settings.every + 2
        progress = Progress(len(images) + chains)
        try:
            result = choose_key_frames(
                images, len(images), settings, keys, flows=flow, on_frame=progress.step, on_chain=progress.step
            )
        except InputError as error:
            if "OpenCV" not in error.text:
                raise
            raise InputError(f"{error.text.rstrip('.')}, or connect flow of OpticalFlow.") from error
    shown = {place: images[place] for place in result.keys}
    if result.following is not None:
        shown[result.following.frame] = images[result.following.frame]
    picture = result.picture(pictures=shown)
    progress.step(0, picture)
    _say(notes, result)
    return Selected(result, to_host(images[list(result.keys)]), picture, notes)


def _say(notes: Notes, result: KeyFrames) -> None:
    notes.say(
        f"key frames {frame_numbers_text(result.keys)}: they show {result.mean:.0%} of the clip, as far as optical "
        "flow can follow it."
    )
    if result.survey.cuts:
        notes.say(f"new shots begin at {frame_numbers_text(result.survey.cuts)}.")
    if result.anchor is not None:
        notes.say(f"the best single frame is {result.anchor.frame}: it shows {result.anchor.gain:.0%}.")
    if result.following is not None:
        notes.say(f"the frame to edit next is {result.following.frame}: it adds {result.following.gain:.1%}.")
