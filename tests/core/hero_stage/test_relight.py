"""Other lights on the training pair."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.hero_stage.training.relight import relight


def grey(level: float, count: int = 2) -> torch.Tensor:
    return torch.full((count, 3, 8, 12), level)


def test_all_pictures_get_the_same_light():
    pictures = torch.rand(2, 3, 8, 12) * 0.1  # dark: nothing is cut off at 1
    lit = relight(pictures, torch.Generator().manual_seed(0))
    gain = lit / pictures
    assert torch.allclose(gain[0], gain[1], rtol=1e-4) and float((gain - 1).abs().max()) > 0.01


def test_the_light_is_smooth_and_of_the_strength_that_is_told():
    gains = []
    for seed in range(64):
        dark = torch.full((1, 3, 48, 64), 0.01)
        gain = (relight(dark, torch.Generator().manual_seed(seed))[0] / 0.01).log()
        tint = gain[:, :1, :1]
        assert torch.allclose(gain - tint, (gain - tint)[:1].expand_as(gain), atol=1e-4)  # one field for all channels
        assert float(gain.diff(dim=1).abs().max()) < 0.12 and float(gain.diff(dim=2).abs().max()) < 0.09
        gains.append(gain)
    values = torch.stack(gains)
    expected = (0.2**2 + 2 * 0.2**2 / 3 + 0.2**2 / 2 + 0.05**2) ** 0.5
    assert float(values.std(0).mean()) == pytest.approx(expected, rel=0.25)
    assert float(values.std((2, 3)).mean()) > 0.1  # it is not the exposure alone


def test_strength_0_changes_nothing_and_more_changes_more():
    pictures = grey(0.2)
    changes = [
        float((relight(pictures, torch.Generator().manual_seed(1), strength) - pictures).abs().mean())
        for strength in (0.0, 0.5, 1.0)
    ]
    assert changes[0] == 0 and changes[0] < changes[1] < changes[2]


def test_values_stay_in_range():
    lit = relight(grey(0.9, 8), torch.Generator().manual_seed(0), 3.0)
    assert float(lit.max()) <= 1 and float(lit.min()) >= 0


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="light"):
        relight(grey(0.1), torch.Generator(), -1.0)
    with pytest.raises(ShapeError, match="pictures"):
        relight(torch.rand(3, 8, 8), torch.Generator())


def test_exposure_slopes_and_tint_are_drawn_apart():
    parts = []
    for seed in range(300):
        gain = (relight(torch.full((1, 3, 9, 9), 0.01), torch.Generator().manual_seed(seed))[0] / 0.01).log()
        light = gain.mean(0)
        right, down = (light[:, -1] - light[:, 0]).mean() / 2, (light[-1] - light[0]).mean() / 2
        parts.append([light.mean(), right, down, *(gain.mean((1, 2)) - light.mean())[:2]])
    among = torch.corrcoef(torch.tensor(parts).T)
    # The three tints sum to zero here, so two of them lean against each other by a half.
    assert float(among[:3, 3:].abs().max()) < 0.2 and float(among[:3, :3].triu(1).abs().max()) < 0.3
    assert float(among[3, 4]) == pytest.approx(-0.5, abs=0.15)


# Made with this snippet and torch 2.13; the law above says what the parts are, this that they stay the same:
# out = relight(torch.full((1, 3, 5, 7), 0.1, dtype=torch.float64), torch.Generator().manual_seed(seed))[0] / 0.1
# [out[0, 0, 0], out[1, 0, 6], out[2, 4, 0], out[0, 4, 6], out[1, 2, 3]]
@pytest.mark.parametrize(
    ("seed", "gains"),
    [
        (0, [2.2555, 2.2280, 1.0113, 0.8859, 1.2448]),
        (1, [0.9796, 1.1091, 1.3543, 0.9415, 1.2024]),
        (2, [1.3844, 1.4070, 1.1280, 1.5876, 1.1818]),
        (3, [1.0093, 1.4938, 1.2066, 0.9452, 1.2493]),
    ],
)
def test_the_same_seed_gives_the_same_light_in_every_release(seed, gains):
    out = relight(torch.full((1, 3, 5, 7), 0.1, dtype=torch.float64), torch.Generator().manual_seed(seed))[0] / 0.1
    found = [out[0, 0, 0], out[1, 0, 6], out[2, 4, 0], out[0, 4, 6], out[1, 2, 3]]
    assert [float(value) for value in found] == pytest.approx(gains, abs=1e-3)
