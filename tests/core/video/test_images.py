"""Resizing, image modes, and colour of decoded frames."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.video.decode import frame_to_rgb
from zero2hero_core.video.resize import target_size
from zero2hero_core.video.source import open_frames, read_image, read_mask, resize_frames


@pytest.mark.parametrize(
    ("source_hw", "size", "multiple", "expected"),
    [
        ((718, 718), None, 8, (720, 720)),
        ((480, 853), 256, 8, (256, 456)),
        ((853, 480), 250, 8, (440, 248)),
        ((100, 100), (33, 70), 16, (32, 64)),
        ((100, 100), 3, 8, (8, 8)),
        ((101, 99), None, 1, (101, 99)),
        ((40, 20), 1, 1, (2, 1)),
        ((40, 20), (1, 1), 1, (1, 1)),
        ((100, 100), (20, 28), 8, (24, 32)),  # halves go up
    ],
)
def test_sizes_are_rounded_to_the_multiple(source_hw, size, multiple, expected):
    assert target_size(source_hw, size, multiple) == expected


@pytest.mark.parametrize("size", [0, -8, True, 8.0, (8,), (8, 0), (8, 8, 8), (8, True)])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match="size: expected nothing, a short side or"):
        target_size((40, 20), size)


@pytest.mark.parametrize("multiple", [0, True, 8.0])
def test_multiples_that_are_none(multiple):
    with pytest.raises(InputError, match="multiple: expected a whole number from 1 up"):
        target_size((40, 20), 8, multiple)


def test_policies():
    ramp = torch.linspace(0, 1, 40).expand(1, 3, 20, 40)  # 20 x 40, grey rises to the right
    stretched, cropped, padded = (resize_frames(ramp, (20, 20), policy)[0, 0] for policy in ("resize", "crop", "pad"))
    assert torch.allclose(stretched[10, [1, 18]], ramp[0, 0, 0].view(20, 2).mean(1)[[1, 18]], atol=2e-3)  # half pixels
    assert torch.equal(cropped, ramp[0, 0, :, 10:30])
    assert torch.allclose(padded[0], padded[5], atol=1e-6)
    assert torch.allclose(padded[5:15], resize_frames(ramp, (10, 20), "resize")[0, 0])
    assert resize_frames(ramp, (20, 40)) is ramp


def test_crop_and_pad_scale_before_they_cut_and_fill():
    picture = torch.rand(1, 3, 20, 40, generator=torch.Generator().manual_seed(0))
    cropped, padded = resize_frames(picture, (30, 30), "crop"), resize_frames(picture, (30, 30), "pad")
    assert torch.equal(cropped, resize_frames(picture, (30, 60))[..., 15:45])
    fitted = resize_frames(picture, (15, 30))
    assert torch.equal(padded[..., 7:22, :], fitted)
    assert torch.equal(padded[..., :7, :], fitted[..., :1, :].expand(-1, -1, 7, -1))
    assert torch.equal(padded[..., 22:, :], fitted[..., -1:, :].expand(-1, -1, 8, -1))  # the odd line is below
    upright = resize_frames(picture.mT, (30, 30), "crop"), resize_frames(picture.mT, (30, 30), "pad")
    assert torch.allclose(upright[0], cropped.mT, atol=1e-6) and torch.allclose(upright[1], padded.mT, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_camera_is_turned_upright(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    stored = Image.Exif()
    stored[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=stored)
    turned = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    expected = torch.from_numpy(turned[orientation](pixels).transpose(2, 0, 1).astype(np.float32)) / 255
    assert torch.equal(read_image(tmp_path / "phone.png"), expected)
    assert open_frames(tmp_path / "phone.png", multiple=1).size_hw == expected.shape[1:]


def test_alpha_of_a_video_is_over_black(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuva420p"
        for alpha in (255, 51, 0):
            container.mux(stream.encode(yuv_frame((235, 128, 128, alpha), pix_fmt="yuva420p")))
        container.mux(stream.encode(None))
    assert [float(frame.mean()) for frame in open_frames(path)] == pytest.approx([1.0, 0.2, 0.0], abs=1e-6)


def test_resizing_is_antialiased():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    assert float(resize_frames(stripes, (20, 20))[..., 4:-4, 4:-4].std()) < 0.05  # 0.36 when not antialiased


def test_image_modes(tmp_path):
    grey16 = np.array([[0, 30000], [513, 65535]], np.uint16)
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    assert torch.equal(read_image(tmp_path / "grey16.png")[1], torch.from_numpy(grey16.astype(np.float32) / 65535))
    Image.new("RGBA", (2, 2), (200, 100, 50, 51)).save(tmp_path / "alpha.png")
    assert torch.allclose(read_image(tmp_path / "alpha.png")[:, 0, 0] * 255, torch.tensor([40.0, 20.0, 10.0]))
    Image.new("RGB", (2, 2), (255, 0, 51)).quantize(4).save(tmp_path / "palette.png")
    assert torch.allclose(read_image(tmp_path / "palette.png")[:, 0, 0] * 255, torch.tensor([255.0, 0.0, 51.0]))
    Image.new("1", (2, 2), 1).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png"), torch.ones(1, 2, 2))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "phone.jpg", exif=turned)
    assert read_image(tmp_path / "phone.jpg").shape == (3, 40, 20)
    assert open_frames(tmp_path / "phone.jpg").size_hw == (40, 24)


def test_deep_grey_is_a_picture_of_three_channels(tmp_path):
    floats = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    Image.fromarray(floats).save(tmp_path / "floats.tiff")
    assert torch.equal(read_image(tmp_path / "floats.tiff"), torch.from_numpy(floats).expand(3, 2, 2))
    for value in (-0.1, 1.1, float("nan")):
        Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "beyond.tiff")
        with pytest.raises(InputError, match=r"expected values in \[0, 1\] \(float\)"):
            read_image(tmp_path / "beyond.tiff")
    for name in ("grey16.png", "grey16.tiff"):
        Image.fromarray(np.array([[0, 13107, 65535]], np.uint16)).save(tmp_path / name)
        picture = read_image(tmp_path / name)
        assert picture.shape == (3, 1, 3) and picture[1, 0].tolist() == [0, pytest.approx(0.2, abs=1e-7), 1]


def test_sixteen_bit_colour_png_keeps_its_depth(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1111
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = 4, 4, "rgb48be", Fraction(1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="rgb48be"))
    (tmp_path / "deep.png").write_bytes(b"".join(bytes(packet) for packet in packets + encoder.encode(None)))
    expected = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    assert torch.allclose(read_image(tmp_path / "deep.png"), expected, atol=1e-7)


def yuv_frame(yuv, size_hw=(32, 32), pix_fmt="yuv420p", depth=8) -> av.VideoFrame:
    frame = av.VideoFrame(size_hw[1], size_hw[0], pix_fmt)
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(np.full(plane.buffer_size // (1 if depth == 8 else 2), value, "u1" if depth == 8 else "<u2"))
    return frame


# Studio-range red: R = 191/255, G = B = 16/255 in each matrix, from the equations of BT.601 and BT.709.
# python: kr, kb = .2126, .0722; r, g, b = 191/255, 16/255, 16/255; y = kr*r + (1-kr-kb)*g + kb*b
#         [16 + 219*y, 128 + 112*(b - y)/(1 - kb), 128 + 112*(r - y)/(1 - kr)]
@pytest.mark.parametrize(
    ("tags", "size_hw", "yuv"),
    [
        ({"colorspace": 1, "color_range": 1}, (32, 32), (61.69, 110.20, 204.86)),
        ({"colorspace": 5, "color_range": 1}, (32, 32), (74.68, 102.06, 204.86)),
        ({}, (32, 32), (74.68, 102.06, 204.86)),  # untagged, small: BT.601
        ({"colorspace": 5, "color_range": 1}, (720, 32), (74.68, 102.06, 204.86)),  # tagged: its size does not matter
        ({"colorspace": 6, "color_range": 1}, (720, 32), (74.68, 102.06, 204.86)),
        ({"colorspace": 4, "color_range": 1}, (720, 32), (74.84, 102.09, 204.86)),  # FCC
        ({"colorspace": 7, "color_range": 1}, (32, 32), (61.59, 110.15, 204.86)),  # SMPTE 240M
        ({"colorspace": 9, "color_range": 1}, (32, 32), (69.21, 106.54, 204.86)),  # BT.2020
        ({"colorspace": 10, "color_range": 1}, (32, 32), (69.21, 106.54, 204.86)),
        ({}, (720, 32), (61.69, 110.20, 204.86)),  # untagged, HD: BT.709
        ({"colorspace": 1, "color_range": 2}, (32, 32), (53.20, 107.73, 215.5)),
    ],
)
def test_matrix_and_range_follow_the_tags(tmp_path, tags, size_hw, yuv):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = *size_hw, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        frame = yuv_frame([round(value) for value in yuv], size_hw)
        frame.colorspace, frame.color_range = tags.get("colorspace", 2), tags.get("color_range", 0)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    color = open_frames(path)[0].mean((1, 2)) * 255
    assert color.tolist() == pytest.approx([191, 16, 16], abs=1.6)  # YUV was rounded


def test_ten_bits_are_kept(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p10le"
        for luma in (64, 501, 502, 940):
            container.mux(stream.encode(yuv_frame((luma, 512, 512), pix_fmt="yuv420p10le", depth=10)))
        container.mux(stream.encode(None))
    means = [float(frame.mean()) for frame in open_frames(path)]
    assert means == pytest.approx([0, 437 / 876, 438 / 876, 1], abs=1e-6)


@pytest.mark.parametrize(("color_range", "black", "white"), [(0, 0.0, 1.0), (2, 0.0, 1.0), (1, 16 / 255, 235 / 255)])
def test_grey_is_full_range_unless_it_says_otherwise(color_range, black, white):
    """Grey as a video frame: untagged and full range from 0 to 255, limited range from 16 to 235."""
    frame = yuv_frame([0], pix_fmt="gray")
    frame.planes[0].update(np.repeat(np.array([round(black * 255), round(white * 255)], np.uint8), 512))
    frame.color_range = color_range
    picture = frame_to_rgb(frame)
    assert picture.shape == (3, 32, 32)
    assert float(picture[:, 0].mean()) == pytest.approx(0, abs=1e-6)
    assert float(picture[:, 31].mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("layout", ["rgb24", "rgb48le"])
def test_rgb_has_no_limited_range(layout):
    white = np.full((4, 4, 3), 128 if layout == "rgb24" else 128 * 257, np.uint8 if layout == "rgb24" else np.uint16)
    frame = av.VideoFrame.from_ndarray(white, format=layout)
    frame.color_range = 1
    assert frame_to_rgb(frame).flatten().tolist() == [pytest.approx(128 / 255, abs=1e-6)] * 48


def test_frames_of_another_shape_are_refused():
    for shape in ((3, 8, 8), (1, 1, 3, 8, 8)):
        with pytest.raises(ShapeError, match="frames: expected"):
            resize_frames(torch.zeros(shape), (4, 4))
