"""Load a video as frames, save frames as a video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from ..zero2hero_core.checks import InputError
from .convert.audio import write_audio
from .convert.checks import check_choice
from .host.notes import Notes
from .host.services import (
    InputImpl,
    Progress,
    SaveTarget,
    Types,
    graph_metadata,
    input_path,
    input_videos,
    io,
    new_output,
    save_picture,
    temporary_folder,
    ui,
)
from .host.sockets import CATEGORY
from .work.video import FITS, Clip, Selection, clip_of, select, size_of

SUFFIXES = {"mp4": ".mp4", "webm": ".webm", "mov": ".mov", "mkv": ".mkv", "png": ""}
PLAYABLE, LOSSLESS = ("mp4", "webm", "mov"), ("mkv", "png")


def _stretch_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "file", options=input_videos(), upload=io.UploadType.video, tooltip="A video of the input folder."
        ),
        io.Int.Input(
            "anchor_frame",
            default=0,
            min=0,
            max=1_000_000,
            tooltip="Which of the loaded frames is the anchor, counted from 0. Take one that shows most of "
            "what the edit changes.",
        ),
        io.Float.Input(
            "force_rate",
            default=0.0,
            min=0.0,
            max=240.0,
            step=0.01,
            tooltip="Frames per second to bring the video to first, dropping or repeating frames; 0 keeps its "
            "own rate.",
        ),
        io.Int.Input(
            "start", default=0, min=0, max=10_000_000, tooltip="First frame, counted from 0 (after force_rate)."
        ),
        io.Int.Input("maximum", default=0, min=0, max=1_000_000, tooltip="Load at most so many; 0: all."),
        io.Int.Input(
            "stride", default=1, min=1, max=10_000, tooltip="Take every n-th frame; the rate is divided by it."
        ),
    ]


def _size_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "short_side",
            default=512,
            min=0,
            max=8192,
            tooltip="Length of the shorter side in pixels, the aspect ratio stays; 0 keeps the size. Counts "
            "where width and height are 0.",
        ),
        io.Int.Input(
            "width",
            default=0,
            min=0,
            max=8192,
            tooltip="Exact width in pixels, with height; 0: short_side counts.",
        ),
        io.Int.Input(
            "height",
            default=0,
            min=0,
            max=8192,
            tooltip="Exact height in pixels, with width; 0: short_side counts.",
        ),
        io.Combo.Input(
            "fit",
            options=list(FITS),
            default="crop",
            tooltip="What happens where the aspect ratio changes: stretch, crop the centre, or pad with the "
            "pixels of the edge.",
        ),
        io.Int.Input(
            "multiple",
            default=64,
            min=1,
            max=256,
            tooltip="Both sides are rounded to a multiple of this. Stable Diffusion needs 64 here, FLUX 16.",
        ),
    ]


class VideoLoad(io.ComfyNode):
    """A file of the input folder as frames, anchor frame, rate and sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoLoad",
            display_name="Load Video (Zero-to-Hero)",
            category=CATEGORY,
            description="Loads the frames of a video with their exact count and rate, and picks the anchor: "
            "the one frame that you edit.",
            inputs=[*_stretch_inputs(), *_size_inputs()],
            outputs=[
                io.Image.Output("frames", display_name="frames", tooltip="All loaded frames."),
                io.Image.Output(
                    "anchor",
                    display_name="anchor",
                    tooltip="The anchor alone: edit it, and use the result as the reference.",
                ),
                io.Int.Output(
                    "anchor_index", display_name="anchor_index", tooltip="Place of the anchor among the frames, from 0."
                ),
                io.Float.Output("fps", display_name="fps", tooltip="Frames per second of the loaded frames."),
                io.Int.Output("frame_count", display_name="frame_count", tooltip="How many frames were loaded."),
                io.Audio.Output(
                    "audio",
                    display_name="audio",
                    tooltip="The sound of the loaded stretch; nothing where the file has none.",
                ),
                io.Video.Output(
                    "video", display_name="video", tooltip="The loaded frames with rate and sound as one VIDEO."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        # None: comes through a link and is not known yet.
        if file is None or input_path(file).is_file():
            return True
        return f"file: {file!r} is not in the input folder; upload it or choose another video."

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> str:
        facts = input_path(file).stat() if file is not None and input_path(file).is_file() else None
        return "" if facts is None else f"{facts.st_mtime_ns} {facts.st_size}"

    @classmethod
    def execute(
        cls,
        file: str,
        anchor_frame: int,
        force_rate: float,
        start: int,
        maximum: int,
        stride: int,
        short_side: int,
        width: int,
        height: int,
        fit: str,
        multiple: int,
    ) -> io.NodeOutput:
        size = size_of(short_side, width, height)
        selection = select(
            input_path(file),
            force_rate=force_rate,
            start=start,
            maximum=maximum,
            stride=stride,
            size=size,
            fit=fit,
            multiple=multiple,
        )
        selection.tell(Notes(cls))
        with selection.source:
            return _loaded(selection, anchor_frame)


def _loaded(selection: Selection, anchor: int) -> io.NodeOutput:
    count, rate = len(selection.indices), selection.fps
    if anchor >= count:
        raise InputError(f"anchor_frame: expected 0 to {count - 1} ({count} frames are loaded), got {anchor}.")
    frames, audio = selection.read(), selection.audio()
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, audio=audio, frame_rate=rate))
    return io.NodeOutput(frames, frames[anchor : anchor + 1], anchor, float(rate), count, audio, video)


def _save_inputs() -> list[io.Input]:
    return [
        io.MultiType.Input(
            "frames", [io.Image, io.Video], tooltip="Frames, or a VIDEO, which brings its own rate and sound."
        ),
        io.Float.Input(
            "fps",
            default=24.0,
            min=0.01,
            max=1000.0,
            step=0.01,
            tooltip="Frames per second, as given by the node that loaded the video. Not used for a VIDEO.",
        ),
        io.String.Input(
            "filename_prefix",
            default="video/zero2hero",
            tooltip="Folder and beginning of the name in the output folder; %date% fields work as elsewhere.",
        ),
        io.Combo.Input(
            "format",
            options=list(SUFFIXES),
            default="mp4",
            tooltip="mp4 and mov: H.264. webm: VP9. mkv: FFV1, lossless. png: a folder of numbered pictures, "
            "lossless, without sound.",
        ),
        io.Int.Input(
            "crf",
            default=-1,
            min=-1,
            max=63,
            tooltip="Quality of H.264 (0 to 51) and VP9 (0 to 63): smaller is better and takes more space. "
            "-1: 16 and 24, hard to tell from the original. Not used by mkv and png.",
        ),
        io.Audio.Input("audio", optional=True, tooltip="Sound from the first frame on; cut at the last one."),
    ]


class VideoSave(io.ComfyNode):
    """Frames, or a VIDEO, as a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoSave",
            display_name="Save Video (Zero-to-Hero)",
            category=CATEGORY,
            description="Saves frames or a VIDEO with its sound. The graph is stored in the file: drag it onto the "
            "canvas to get the graph back (.mkv: drag the .png beside it).",
            inputs=_save_inputs(),
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, frames: Any, fps: float, filename_prefix: str, format: str, crf: int, audio: Any = None
    ) -> io.NodeOutput:
        check_choice("format", format, SUFFIXES)
        if format == "png" and audio is not None:
            raise InputError("audio: a folder of PNG files holds no sound; disconnect audio or set format to mp4.")
        clip, texts = clip_of(frames, fps, audio), graph_metadata(cls)
        target = new_output(filename_prefix, SUFFIXES[format], clip.size_hw)
        quality = None if crf < 0 or format in LOSSLESS else crf
        first = write_clip(clip, target.path, quality, texts)
        if format in PLAYABLE:
            return io.NodeOutput(ui=ui.PreviewVideo([target.saved]))
        if format == "mkv":  # browsers play no FFV1, and the front end reads no graph from Matroska
            still = SaveTarget(target.path.with_suffix(".png"), target.subfolder)
            save_picture(still.path, first, texts)
            return io.NodeOutput(ui={"images": [still.saved], "videos": [target.saved]})
        picture = SaveTarget(target.path / "000000.png", str(Path(target.subfolder) / target.path.name))
        return io.NodeOutput(ui=ui.SavedImages([picture.saved]))


def write_clip(clip: Clip, path: Path, crf: int | None, texts: dict[str, str]) -> Any:
    """Write a clip, all or nothing; return its first frame (3, H, W). Cancel leaves nothing behind."""
    from ..zero2hero_core.video.writer import VideoWriter

    progress, first = Progress(clip.count), None
    times = clip.times if path.suffix else None  # numbered pictures have no times
    with (
        _sound_file(clip if path.suffix else None) as sound,
        VideoWriter(path, clip.fps, times=times, crf=crf, audio_from=sound, metadata=texts) as writer,
    ):
        for frame in clip.frames:
            first = frame if first is None else first
            writer.write(frame)
            progress.step()
    return first


@contextmanager
def _sound_file(clip: Clip | None) -> Iterator[Path | None]:
    """The sound as a file, which the writer wants; what was in memory is removed again."""
    sound = None if clip is None else clip.sound
    if sound is None or isinstance(sound, Path):
        yield sound
        return
    path = temporary_folder() / f"zero2hero_{token_hex(8)}.wav"
    try:
        write_audio(path, sound)
        yield path
    finally:
        path.unlink(missing_ok=True)


NODES = [VideoLoad, VideoSave]
