"""The video and evaluation nodes called directly: memory estimate, Cancel, metrics, pixel swap. Prints `ok`."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import comfy.model_management as model_management
import comfy.utils
import folder_paths
import torch
from zero2hero_ext.nodes import evaluation, video
from zero2hero_ext.nodes.convert.pictures import mask_to_core, mask_to_host, to_core, to_host
from zero2hero_ext.nodes.host import services as host
from zero2hero_ext.nodes.work import video as video_frames
from zero2hero_ext.zero2hero_core.checks import InputError
from zero2hero_ext.zero2hero_core.correspondence.file import ClipCorrespondence
from zero2hero_ext.zero2hero_core.correspondence.match import Correspondence, LevelMatches
from zero2hero_ext.zero2hero_core.metrics.ssim import ssim
from zero2hero_ext.zero2hero_core.video.writer import VideoWriter


def told(function, *args, **named) -> str:
    """The message of the error that a call ends in."""
    try:
        function(*args, **named)
    except InputError as error:
        return str(error)
    raise AssertionError(f"{function} raised nothing")


def check_conversion() -> None:
    image = torch.rand(2, 4, 6, 3)
    assert torch.equal(to_host(to_core(image)), image)
    assert torch.equal(to_core(torch.cat([image, torch.full((2, 4, 6, 1), 0.5)], -1)), to_core(image) * 0.5)
    mask = torch.rand(1, 4, 6)
    assert mask_to_core(mask, 3).shape == (3, 1, 4, 6) and torch.equal(mask_to_host(mask_to_core(mask)), mask)
    assert "frames: expected an IMAGE" in told(to_core, torch.rand(2, 3, 4, 6), "frames")
    assert "expected 1 or 3 masks" in told(mask_to_core, torch.rand(2, 4, 6), 3)


def check_rates() -> None:
    quarter = [index / 24 for index in range(4)]
    assert video_frames.at_rate(quarter, Fraction(24), Fraction(12)) == [0, 2]
    assert video_frames.at_rate([0.0, 1 / 12], Fraction(12), Fraction(24)) == [0, 0, 1, 1]
    rounded = [0.0, 0.042, 0.083, 0.125]  # milliseconds, as Matroska stores them
    assert video_frames.at_rate(rounded, Fraction(24), Fraction(24)) == [0, 1, 2, 3]
    uneven = [0.0, 0.1, 0.5]
    assert video_frames.at_rate(uneven, Fraction(5), Fraction(10)) == [0, 1, 1, 1, 1, 2, 2]


def check_memory(folder: Path) -> None:
    """The estimate comes before anything is decoded into memory, and says what would fit."""
    with VideoWriter(folder / "clip.mkv", 24) as writer:
        writer.write(torch.rand(10, 3, 48, 64))
    each, keep = 48 * 64 * 12, video_frames.free_memory
    video_frames.free_memory = lambda device: 4 * each / video_frames.SHARE + 1
    options = dict(zip(("anchor_frame", "force_rate", "start", "maximum", "stride"), (0, 0.0, 0, 0, 1), strict=True))
    options |= {"short_side": 0, "width": 0, "height": 0, "fit": "crop", "multiple": 16}
    message = told(video.VideoLoad.execute, "clip.mkv", **options)
    assert "10 frames of 64 x 48" in message and "set maximum to 4 or less" in message, message
    assert len(video.VideoLoad.execute("clip.mkv", **(options | {"maximum": 4})).args[0]) == 4
    video_frames.free_memory = keep
    before = video.VideoLoad.fingerprint_inputs("clip.mkv", **options)
    (folder / "clip.mkv").touch()
    assert before != video.VideoLoad.fingerprint_inputs("clip.mkv", **options) != ""
    assert video.VideoLoad.validate_inputs(None) is True


def check_choices(folder: Path) -> None:
    """Hosts differ in whether they look at the choice of a graph that comes through their API."""
    message = told(video.VideoSave.execute, torch.rand(1, 48, 64, 3), 24.0, "clip", "avi", -1)
    assert message == "format: expected one of mp4, webm, mov, mkv, png, got 'avi'; choose one of them.", message
    shape = {"force_rate": 0.0, "start": 0, "maximum": 0, "stride": 1, "size": None, "multiple": 16}
    assert "fit: expected one of stretch, crop, pad" in told(video_frames.select, folder, **shape, fit="squeeze")


def check_cancel(output: Path) -> None:
    """Cancel ends the node at the next frame and leaves no file; the next run goes on."""
    clip = video_frames.clip_of(torch.rand(4, 48, 64, 3), 24.0, None)
    model_management.interrupt_current_processing(True)
    try:
        video.write_clip(clip, output / "never.mp4", None, {})
    except model_management.InterruptProcessingException:
        assert list(output.iterdir()) == [], list(output.iterdir())
    else:
        raise AssertionError("Cancel was swallowed")
    video.write_clip(clip, output / "now.mp4", None, {})
    assert [path.name for path in output.iterdir()] == ["now.mp4"]


def check_progress() -> None:
    """Steps reach the host's bar, with a picture where one is given."""
    seen: list[tuple] = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, preview)))
    bar = host.Progress(3)
    bar.step()
    bar.step(2, torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 4, 6))
    comfy.utils.set_progress_bar_global_hook(None)
    (first, nothing), (last, (kind, picture, limit)) = seen
    assert (first, nothing, last, kind) == (1, None, 3, "JPEG") and limit > 0
    assert picture.size == (6, 4) and picture.getpixel((0, 0)) == (255, 128, 0)


def check_ssim() -> None:
    """Numbers of scikit-image 0.26: structural_similarity(a, b, channel_axis=2, data_range=1) of these waves."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    a = torch.stack([0.5 + 0.4 * torch.sin(x / 3 + y / (2 + c)) for c in range(3)])[None]
    b = (a * 0.8 + 0.1 * torch.cos(y / 2)).clamp(0, 1)
    assert abs(float(ssim(a, b)) - 0.894454) < 1e-5, float(ssim(a, b))
    assert float(ssim(a, a)) == 1 and torch.isnan(ssim(a, b, torch.zeros(1, 1, 24, 32))).all()
    half = torch.zeros(1, 1, 24, 32)
    half[..., :16] = 1
    assert abs(float(ssim(a, torch.cat([a[..., :16], b[..., 16:]], -1), half)) - 1) < 0.05


def check_metrics() -> None:
    frames = torch.rand(2, 16, 16, 3)
    truth = (frames + 0.1).clamp(0, 1)
    empty_second = torch.ones(2, 16, 16)
    empty_second[1] = 0
    psnr, _, report = evaluation.VideoMetrics.execute(frames, truth, empty_second).args
    error = (frames[0] - truth[0]).square().mean()
    assert abs(psnr + 10 * torch.log10(error).item()) < 1e-3
    assert "1 of 2 frames have an empty mask" in report
    assert "mask: expected some pixels" in told(evaluation.VideoMetrics.execute, frames, truth, torch.zeros(1, 16, 16))
    assert "mask: expected 16 x 16" in told(evaluation.VideoMetrics.execute, frames, truth, torch.zeros(1, 8, 8))


def check_pixel_swap() -> None:
    """Frame 1 sees the reference turned by half; the anchor, frame 0, is the reference."""
    order = torch.arange(15, -1, -1, dtype=torch.int32)[:, None]
    level = LevelMatches((4, 4), order, torch.ones(16, 1))
    matches = Correspondence((level,), torch.ones(4, 4), torch.zeros(4, 4))
    reference = torch.arange(16.0).view(4, 4, 1).expand(4, 4, 3) / 16
    reference = reference.repeat_interleave(2, 0).repeat_interleave(2, 1)[None]
    clip = ClipCorrespondence({1: matches}, (8, 8), 0)
    frames = evaluation.PixelSwap.execute(clip, reference).args[0]
    assert torch.equal(frames[0], reference[0]) and torch.equal(frames[1], reference[0].flip(0, 1))
    assert "reference: expected one picture of 8 x 8" in told(evaluation.PixelSwap.execute, clip, reference[:, :4])


def check_variable_rate(folder: Path) -> None:
    """Loading says that a batch has one rate; force_rate keeps in step and says nothing; saving keeps the times."""
    times, said = [0.0, 0.04, 0.08, 0.6, 1.0], []
    with VideoWriter(folder / "uneven.mp4", 25, times=times) as writer:
        writer.write(torch.rand(5, 3, 48, 64))
    keep, logging.warning = logging.warning, lambda text, *parts: said.append(text % parts)
    try:
        sizes = {"short_side": 0, "width": 0, "height": 0, "fit": "crop", "multiple": 16}
        options = {"anchor_frame": 0, "start": 0, "maximum": 0, "stride": 1} | sizes
        assert video.VideoLoad.execute("uneven.mp4", force_rate=0.0, **options).args[4] == 5
        assert len(said) == 1 and "variable frame rate" in said[0] and "set force_rate" in said[0], said
        assert video.VideoLoad.execute("uneven.mp4", force_rate=25.0, **options).args[4] > 20
        assert len(said) == 1, said
    finally:
        logging.warning = keep
    clip = video_frames.clip_of(host.InputImpl.VideoFromFile(str(folder / "uneven.mp4")), 24.0, None)
    assert clip.times is not None and max(abs(a - b) for a, b in zip(clip.times, times, strict=True)) < 1e-3
    video.write_clip(clip, folder / "again.mp4", None, {})
    again = video_frames.open_frames(folder / "again.mp4")
    assert max(abs(again.time_of(i) - time) for i, time in enumerate(times)) < 1e-3


def main() -> None:
    """Everything, in folders of this process."""
    folder, output = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    for path in (folder, output):
        path.mkdir(parents=True, exist_ok=True)
    check_conversion()
    check_rates()
    with torch.inference_mode():
        check_memory(folder)
        check_choices(folder)
        check_variable_rate(folder)
        check_cancel(output)
        check_progress()
        check_ssim()
        check_metrics()
        check_pixel_swap()
    assert 0 < host.free_memory("cpu") <= host.total_memory("cpu")
    print("ok")


if __name__ == "__main__":
    main()
