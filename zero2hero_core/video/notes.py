"""What a user should know about a video before work begins: what is taken otherwise than a player shows it."""

from __future__ import annotations

from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition

from .decode import alpha_is_lost, sound_track

_HDR = {16: "PQ", 18: "HLG"}  # transfer functions, ITU-T H.273
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries


def file_notes(container: InputContainer, stream: av.VideoStream) -> list[str]:
    """Return notes on what the headers of a file tell, each one line without a full stop."""
    notes = []
    aspect: Fraction | None = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if aspect and aspect != 1:
        notes.append(
            f"the pixels of the video are not square ({aspect.numerator}:{aspect.denominator}) but taken as square, "
            "so the picture looks squeezed; scale the video to square pixels first, or set both sides of the size"
        )
    if alpha_is_lost(stream):
        notes.append(
            "the video has alpha, which this FFmpeg cannot decode (it lacks libvpx), so hidden colours are visible; "
            "composite the video over black first"
        )
    return notes + _sound_notes(container)


def _sound_notes(container: InputContainer) -> list[str]:
    tracks, used = list(container.streams.audio), sound_track(container)
    if tracks and used is None:
        return ["the sound is in a codec that this FFmpeg does not know and is left out; convert the sound first"]
    default = next((track for track in tracks if track.disposition & Disposition.default), None)
    if used is None or default is None or default.index == used.index:
        return []
    named = [tracks.index(track) + 1 for track in (used, default)]
    return [
        f"the video has {len(tracks)} sound tracks; track {named[0]} is used, although track {named[1]} is marked as "
        "the default; make a copy with that track alone to use it"
    ]


def frame_notes(frame: av.VideoFrame, stream: av.VideoStream) -> list[str]:
    """Return notes on how the first frame is coded."""
    notes = []
    context = stream.codec_context
    transfer = getattr(frame, "color_trc", None) or context.color_trc  # a frame tells it from PyAV 15 on
    primaries = getattr(frame, "color_primaries", None) or context.color_primaries
    if transfer in _HDR:
        notes.append(
            f"the video is HDR ({_HDR[transfer]}), and its values are taken as they are, without tone mapping, so it "
            "looks flat; convert it to SDR (BT.709) first"
        )
    elif primaries in _WIDE:
        notes.append(
            f"the colours of the video are {_WIDE[primaries]} and are taken for BT.709, so they look pale; convert it "
            "to BT.709 first"
        )
    return notes


INTERLACED = (
    "the video is interlaced, and its frames are taken as they are, with combs where things move; deinterlace it first"
)
INCOMPLETE = (
    "the video was cut without re-encoding, and its first pictures need some that were cut away: they may be missing "
    "or look damaged; start later, or cut the original anew with re-encoding"
)
