"""Colours of another picture, lightness of one's own."""

from __future__ import annotations

import torch

from zero2hero_core.guidance.recolour import recolour


def _picture(seed: int) -> torch.Tensor:
    return torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed))


def _luminosity(picture: torch.Tensor) -> torch.Tensor:
    return 0.3 * picture[0] + 0.59 * picture[1] + 0.11 * picture[2]


def test_to_itself_it_changes_no_more_than_rounding() -> None:
    picture = (_picture(0) * 0.6 + 0.2).mul(255).round() / 255
    assert (recolour(picture, picture) - picture).abs().max() <= 3 / 255


def test_grey_gets_the_colours_and_keeps_its_light() -> None:
    grey = _picture(0).mean(0).expand(3, -1, -1) * 0.4 + 0.3
    red = torch.stack([torch.rand(32, 48) * 0.3 + 0.6, torch.rand(32, 48) * 0.2, torch.rand(32, 48) * 0.2])
    result = recolour(grey, red)
    assert (result[0] - result[1]).mean() > 0.2 and (result[0] - result[2]).mean() > 0.2
    assert (_luminosity(result) - _luminosity(grey)).abs().max() < 2e-3
    assert result.min() >= 0 and result.max() <= 1
