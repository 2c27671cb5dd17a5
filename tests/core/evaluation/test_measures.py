"""PSNR, PCK and pixel swap, against other libraries or by hand."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from zero2hero_core.checks import ShapeError
from zero2hero_core.correspondence.match import LevelMatches
from zero2hero_core.metrics.psnr import pck, psnr
from zero2hero_core.propagation.pixel_swap import pixel_swap


def test_psnr_equals_scikit_image() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, other = torch.rand(3, 3, 20, 30, generator=generator), torch.rand(3, 3, 20, 30, generator=generator)
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(truth, other, strict=True)]
    assert psnr(other, truth).tolist() == pytest.approx(expected, abs=1e-4)
    assert bool(psnr(truth, truth).isinf().all())


def test_psnr_inside_a_mask_sees_only_the_mask() -> None:
    truth, other = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    other[..., :2] = 0.1
    other[..., 2:] = 0.9
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert float(psnr(other, truth, mask)) == pytest.approx(20.0, abs=1e-4)
    with pytest.raises(ShapeError, match="equal shapes"):
        psnr(other, truth[..., :2])


def test_pck_by_hand() -> None:
    truth = torch.zeros(4, 2)
    found = torch.tensor([[0.0, 0.0], [0.03, 0.04], [0.06, 0.0], [0.9, 0.9]])
    assert pck(found, truth, torch.tensor([True, True, True, False])) == pytest.approx(2 / 3)


def level(indices: list[int], size: tuple[int, int]) -> LevelMatches:
    tokens = torch.tensor(indices, dtype=torch.int32)[:, None]
    return LevelMatches(size, tokens, torch.ones_like(tokens, dtype=torch.float32))


def test_pixel_swap_moves_patches() -> None:
    reference = torch.arange(16.0).view(1, 4, 4).expand(3, 4, 4)
    swapped = pixel_swap(reference, level([3, 1, 2, 0], (2, 2)))
    assert swapped[0].tolist() == [[10, 11, 2, 3], [14, 15, 6, 7], [8, 9, 0, 1], [12, 13, 4, 5]]
    assert torch.equal(pixel_swap(reference, level([0, 1, 2, 3], (2, 2))), reference)


def test_match_coordinates_are_cell_centres() -> None:
    coords = level([0, 5, 3, 1, 2, 4], (2, 3)).coords_xy()
    assert coords.shape == (2, 3, 2)
    assert coords[0, 1].tolist() == pytest.approx([5 / 6, 0.75])
