"""PSNR, SSIM, the authors' preparation and the weighted mean, against scikit-image and by hand."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.metrics.ssim import check_pair, ssim, weighted_mean
from zero2hero_core.tiny.scenes.scene import Scene
from zero2hero_core.video.source import open_frames

FORMS = {
    "uniform": {},
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}
C1, C2 = 0.01**2, 0.03**2
CLIPS = ("car-turn.mp4", "rabbit-watermelon.mp4", "wolf.mp4")


def random_pair(height: int = 40, width: int = 52) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, height, width, generator=generator), torch.rand(2, 3, height, width, generator=generator)


@cache
def rendered_pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two frames of a scene in its second and first appearance, and where the object is."""
    scene = Scene(2_000_003, 2, 96)
    return scene.frames(1), scene.frames(0), scene.masks()


def clip_pair(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with open_frames(file) as source:
        frames = source.frames([0, 3])
    inner = (..., slice(100, 300), slice(100, 340))
    return frames[1:][inner], frames[:1][inner]


def check_against_scikit_image(pictures: torch.Tensor, truth: torch.Tensor) -> None:
    arrays = [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(pictures, truth, strict=True)]
    expected = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in arrays]
    assert psnr(pictures, truth).tolist() == pytest.approx(expected, abs=1e-4)
    for form, options in FORMS.items():
        doubles = [(a.astype(np.float64), b.astype(np.float64)) for a, b in arrays]
        expected = [structural_similarity(a, b, channel_axis=2, data_range=1, **options) for a, b in doubles]
        assert ssim(pictures, truth, form=form).tolist() == pytest.approx(expected, abs=1e-6)


def test_psnr_and_ssim_equal_scikit_image_on_random_pictures() -> None:
    check_against_scikit_image(*random_pair())


def test_psnr_and_ssim_equal_scikit_image_on_rendered_pictures() -> None:
    check_against_scikit_image(*rendered_pair()[:2])


@pytest.mark.parametrize("name", CLIPS)
def test_psnr_and_ssim_equal_scikit_image_on_real_clips(name: str, shared_data: Path) -> None:
    check_against_scikit_image(*clip_pair(shared_data / name))


def test_psnr_by_hand() -> None:
    truth = torch.zeros(1, 3, 2, 2)
    pictures = truth.clone()
    pictures[0, :, 0, 1] = 0.2  # MSE = 0.04 / 4 = 0.01 -> 20 dB
    assert float(psnr(pictures, truth)) == pytest.approx(20, abs=1e-5)
    mask = torch.tensor([[[[0.0, 0.25], [0.0, 0.75]]]])  # MSE = 0.25 * 0.04 / (0.25 + 0.75) -> 20 dB
    assert float(psnr(pictures, truth, mask)) == pytest.approx(20, abs=1e-5)
    assert float(psnr(pictures, truth, (mask > 0).float())) == pytest.approx(-10 * math.log10(0.02), abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_ssim_of_even_pictures_by_hand(form: str) -> None:
    def grey(value: float) -> torch.Tensor:
        return torch.full((1, 3, 12, 12), value)

    assert float(ssim(grey(0.0), grey(1.0), form=form)) == pytest.approx(C1 / (1 + C1), abs=1e-7)
    assert float(ssim(grey(0.5), grey(0.7), form=form)) == pytest.approx((0.7 + C1) / (0.74 + C1), abs=1e-6)


def test_ssim_of_one_uniform_window_by_hand() -> None:
    """A white pixel among black ones and its negative: means 1/49 and 48/49, variances 1/49, covariance -1/49."""
    pictures = torch.zeros(1, 3, 7, 7)
    pictures[..., 2, 4] = 1
    expected = (2 * 48 / 2401 + C1) * (-2 / 49 + C2) / (((1 + 48**2) / 2401 + C1) * (2 / 49 + C2))
    assert float(ssim(pictures, 1 - pictures)) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_one_gaussian_window_by_hand() -> None:
    """A white pixel in the middle of 11 x 11 black ones against black: mean g, population variance g - g^2."""
    pictures = torch.zeros(1, 3, 11, 11)
    pictures[..., 5, 5] = 1
    g = 1 / sum(math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-5, 6)) ** 2
    expected = C1 * C2 / ((g**2 + C1) * (g - g**2 + C2))
    assert float(ssim(pictures, torch.zeros_like(pictures), form="gaussian")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_ssim_is_1_for_equal_pictures_and_symmetric(form: str) -> None:
    pictures, truth = random_pair()
    assert ssim(truth, truth, form=form).tolist() == [1, 1]
    assert ssim(truth.half(), truth.half(), form=form).tolist() == [1, 1]
    assert torch.allclose(ssim(pictures, truth, form=form), ssim(truth, pictures, form=form))
    assert float(ssim(1 - truth, truth, form=form).max()) < -0.9


@pytest.mark.parametrize("form", FORMS)
def test_laws_of_the_mask_in_ssim(form: str) -> None:
    pictures, truth, inside = rendered_pair()
    whole, half = ssim(pictures, truth, form=form), 5 if form == "gaussian" else 3
    assert torch.equal(ssim(pictures, truth, torch.ones_like(inside), form=form), whole)
    assert bool(ssim(pictures, truth, torch.zeros_like(inside), form=form).isnan().all())
    object_, wall = (ssim(pictures, truth, mask, form=form) for mask in (inside, 1 - inside))
    assert float(object_.max()) < 0.9 < float(wall.min())  # only the object's surface differs
    share = inside[..., half:-half, half:-half].mean((1, 2, 3))
    assert torch.allclose(object_ * share + wall * (1 - share), whole, atol=1e-5)


def test_ssim_in_a_mask_sees_windows_around_it_only() -> None:
    pictures, truth = random_pair()
    mask = torch.zeros(2, 1, 40, 52)
    mask[..., 10, 10] = 1
    other = pictures.clone()
    other[..., 14:, :] = 0
    assert torch.equal(ssim(pictures, truth, mask), ssim(other, truth, mask))
    other[..., 13, 13] = 0
    assert not torch.allclose(ssim(pictures, truth, mask), ssim(other, truth, mask))


def test_weighted_mean_by_hand() -> None:
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]])
    assert weighted_mean(values).tolist() == [2.25]
    assert weighted_mean(values, mask).tolist() == [pytest.approx((1 + 0.5 * 12) / (1.5 * 2))]
    assert weighted_mean(values, mask.bool()).tolist() == [pytest.approx((1 + 12) / (2 * 2))]
    assert math.isnan(float(weighted_mean(values, 0 * mask)))


def test_wrong_input_is_explained() -> None:
    pictures, truth = random_pair()
    with pytest.raises(ShapeError, match=r"truth: expected equal shapes, got \(2, 3, 40, 50\) and .* resize or cut"):
        ssim(pictures, truth[..., :50])
    with pytest.raises(ShapeError, match=r"mask: expected \(2, 1, 40, 52\).*got \(1, 1, 40, 52\).*mask.expand"):
        ssim(pictures, truth, torch.ones(1, 1, 40, 52))
    for form, shortest in (("uniform", 7), ("gaussian", 11)):
        with pytest.raises(ShapeError, match=rf"sides from {shortest} pixels up.*enlarge"):
            ssim(pictures[..., : shortest - 1], truth[..., : shortest - 1], form=form)
        assert ssim(pictures[..., :shortest], truth[..., :shortest], form=form).shape == (2,)
    with pytest.raises(InputError, match="expected one of uniform, gaussian, got 'box'"):
        ssim(pictures, truth, form="box")
    with pytest.raises(ShapeError, match=r"pictures: expected shape \(N, 3, H, W\)"):
        check_pair(pictures[0])
    with pytest.raises(InputError, match="at least 3 frames, got 2"):
        check_pair(pictures, frames=3)
