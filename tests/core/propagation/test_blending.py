"""Laws of the blend of two sides, and of the colour space that it works in."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.propagation.blending import BlendSettings, blend, choose, contrast_mix, mix_weights
from zero2hero_core.propagation.lab import lab_to_rgb, rgb_to_lab

ALL = [
    BlendSettings(choice, mix, poisson)
    for choice in ("hard", "soft")
    for mix in (False, True)
    for poisson in (False, True)
]
PLAIN = [settings for settings in ALL if not (settings.mix or settings.poisson)]


def picture(seed: int, height: int = 24, width: int = 17) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def errors(seed: int, height: int = 24, width: int = 17) -> torch.Tensor:
    return 3 * torch.rand(height, width, generator=torch.Generator().manual_seed(seed))


def test_lab_of_known_colours() -> None:
    """CIE values of sRGB's primaries under D65 (L of 100 is 255 here)."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]]).T[:, None]
    lab = rgb_to_lab(colours)[:, 0].T / torch.tensor([2.55, 1, 1])
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [53.39, 0, 0]]
    assert torch.allclose(lab, torch.tensor(expected), atol=0.03)


def test_lab_there_and_back() -> None:
    colours = picture(0) * torch.tensor([1e-3, 0.1, 1]).view(3, 1, 1)
    assert (lab_to_rgb(rgb_to_lab(colours)) - colours).abs().max() < 1e-5
    assert torch.equal(rgb_to_lab(colours[None])[0], rgb_to_lab(colours))


def test_choice_by_hand() -> None:
    forward, backward = torch.tensor([[0.0, 2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert choose(forward, backward, 0.5).tolist() == [[False, True, True, True]]
    assert choose(forward, backward, 0.25).tolist() == [[False, False, False, True]]  # 0.5 against 0.75
    assert choose(forward, backward, 0.75).tolist() == [[False, True, True, True]]
    assert not choose(forward, backward, 0.0).any()
    assert choose(forward, backward, 1.0).all()


def test_exchanged_sides_exchange_the_choice() -> None:
    first, second = errors(1), errors(2)
    for alpha in (0.2, 0.5, 0.9):
        assert torch.equal(choose(first, second, alpha), ~choose(second, first, 1 - alpha))
        weights = mix_weights(first, second, alpha)
        assert torch.allclose(weights, 1 - mix_weights(second, first, 1 - alpha), atol=1e-6)


def test_weights_by_hand() -> None:
    assert torch.allclose(mix_weights(torch.ones(1, 2), torch.ones(1, 2), 0.3), torch.tensor(0.3))
    one = mix_weights(torch.tensor([[2.0]]), torch.tensor([[0.0]]), 0.5, softness=1, sharpness=1)
    assert one.item() == pytest.approx(3 / 4)
    assert mix_weights(errors(0), errors(1), 0.0).eq(0).all() and mix_weights(errors(0), errors(1), 1.0).eq(1).all()


def test_sharp_weights_become_the_choice() -> None:
    first, second = errors(3), errors(4)
    sure = ((first + 1e-6) / (second + 1e-6)).log().abs() > 0.2
    weights = mix_weights(first, second, 0.5, softness=1e-6, sharpness=100)
    assert sure.float().mean() > 0.5
    assert torch.allclose(weights[sure], choose(first, second, 0.5)[sure].float(), atol=1e-4)


def test_the_mix_has_the_mean_and_contrast_of_its_model() -> None:
    mixed = contrast_mix(picture(0), picture(1), errors(0) / 3, 0.2 * picture(2) + 0.1)
    model = 0.2 * picture(2) + 0.1
    assert torch.allclose(mixed.mean((1, 2)), model.mean((1, 2)), atol=1e-6)
    assert torch.allclose(mixed.std((1, 2)), model.std((1, 2)), atol=1e-6)
    plain = torch.lerp(picture(0), picture(1), 0.5)
    assert (plain.std((1, 2)) < 0.8 * picture(0).std((1, 2))).all()  # what it is for


def test_blend_has_mean_and_contrast_of_the_chosen_picture() -> None:
    first, second = (0.3 + 0.3 * picture(seed) for seed in (0, 1))  # colours that sRGB has after the mix, too
    result, mask = blend(first, second, errors(0), errors(1), 0.4, BlendSettings("hard", mix=True))
    assert 0.1 < mask.float().mean() < 0.9
    model = rgb_to_lab(torch.where(mask, second, first))
    lab = rgb_to_lab(result)
    assert torch.allclose(lab.mean((1, 2)), model.mean((1, 2)), atol=0.02)
    assert torch.allclose(lab.std((1, 2)), model.std((1, 2)), rtol=1e-3)


@pytest.mark.parametrize("settings", ALL)
@pytest.mark.parametrize("size", [(24, 17), (1, 5)])
def test_equal_sides_give_that_picture(settings: BlendSettings, size: tuple[int, int]) -> None:
    one = 0.9 * picture(0, *size)
    result, _ = blend(one, one, errors(1, *size), errors(2, *size), 0.4, settings)
    assert (result - one).abs().max() <= (0 if settings in PLAIN else 1e-5)


@pytest.mark.parametrize("settings", ALL)
def test_at_the_ends_a_key_is_taken(settings: BlendSettings) -> None:
    forward, backward = 0.9 * picture(0), 0.9 * picture(1)
    tolerance = 0 if settings in PLAIN else 1e-5
    for alpha, expected in ((0.0, forward), (1.0, backward)):
        result, mask = blend(forward, backward, errors(1), errors(2), alpha, settings)
        assert (result - expected).abs().max() <= tolerance
        assert mask.all() if alpha else not mask.any()


def test_a_plain_blend_takes_any_values() -> None:
    forward, backward = 5 * picture(0) - 3, 5 * picture(1) - 3
    result, mask = blend(forward, backward, errors(0), errors(1), 0.5, BlendSettings("hard"))
    assert torch.equal(result, torch.where(mask, backward, forward))
    assert result.min() < 0 and result.max() > 1


def test_poisson_joins_two_sides_without_a_seam() -> None:
    """Two even pictures of different level, chosen half and half: the step of the plain choice is spread."""
    forward, backward = torch.full((3, 8, 32), 0.3), torch.full((3, 8, 32), 0.6)
    left = (torch.arange(32) < 16).float().expand(8, 32)
    steps = {}
    for poisson in (False, True):
        result, _ = blend(forward, backward, 1 - left, left, 0.5, BlendSettings("hard", poisson=poisson))
        steps[poisson] = (result[..., 16] - result[..., 15]).abs().max().item()
    assert steps[False] == pytest.approx(0.3) and steps[True] < 0.12


def test_refusals() -> None:
    with pytest.raises(InputError, match="choice: expected hard or soft, got 'best'"):
        BlendSettings("best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha: expected a value from 0 to 1, got 1.5"):
        choose(errors(0), errors(1), 1.5)
    with pytest.raises(ShapeError, match="error_backward"):
        choose(errors(0), errors(1, 3, 3), 0.5)
    with pytest.raises(ShapeError, match="forward"):
        blend(picture(0, 9, 9), picture(1), errors(0), errors(1), 0.5)
