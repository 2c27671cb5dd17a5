"""Fusion of latents and pictures: the laws of Rerender-A-Video's equations."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.guidance.fusion import flat_cells, fuse_noise, fuse_pictures, fuse_shape, match_colour

ALPHA = torch.tensor(0.4)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_adain_of_the_anchor_to_itself_changes_it_by_the_two_conventions_of_variance_only() -> None:
    latents = _normal(1, 4, 32, 32) * 3 + 1
    assert (match_colour(latents, latents) - latents).abs().max() < 5e-3 * latents.abs().max()
    other = match_colour(latents, _normal(1, 4, 32, 32, seed=1) * 0.5 - 2)
    assert other.mean((2, 3)).add(2).abs().max() < 0.1 and other.std((2, 3)).sub(0.5).abs().max() < 0.05


def test_adain_by_hand() -> None:
    content, style = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)
    # (0 - 1) / sqrt(1 + 1e-5) * sqrt(8 + 1e-5) + 3
    assert match_colour(content, style).flatten().tolist() == pytest.approx([0.17158, 5.82842], abs=2e-5)


def test_no_trust_leaves_latents_alone_and_full_trust_takes_the_nearest_cell() -> None:
    clean, other = _normal(1, 4, 6, 8), _normal(1, 4, 6, 8, seed=1)
    flow = torch.zeros(6, 8, 2)
    flow[..., 0] = 1.4
    assert torch.equal(fuse_shape(clean, other, flow, torch.zeros(1, 1, 6, 8)), clean)
    taken = fuse_shape(clean, other, flow, torch.ones(1, 1, 6, 8))
    assert torch.equal(taken[..., :-1], other[..., 1:])


def test_full_weight_is_the_noisy_target() -> None:
    x, eps, target, noise = (_normal(2, 4, 8, 8, seed=seed) for seed in range(4))
    result = fuse_noise(x, eps, target, noise, torch.ones(2, 1, 8, 8), ALPHA)
    assert torch.allclose(result, ALPHA.sqrt() * target + (1 - ALPHA).sqrt() * noise, atol=1e-6)


def test_no_weight_is_no_change() -> None:
    x, eps, target, noise = (_normal(2, 4, 8, 8, seed=seed) for seed in range(4))
    assert torch.allclose(fuse_noise(x, eps, target, noise, torch.zeros(2, 1, 8, 8), ALPHA), x, atol=1e-6)


@pytest.mark.parametrize(("inner", "flat", "spread"), [(1.0, None, 1.0), (0.9, None, 0.926), (0.9, False, 0.7071)])
def test_the_spread_of_the_noise_at_half_weight(inner: float, flat: bool | None, spread: float) -> None:
    """Of x = 0 + D and target 0 only noise is left: sqrt(w^2 + rho^2) of its nominal spread."""
    eps, noise = _normal(1, 1, 400, 400), _normal(1, 1, 400, 400, seed=1)
    x = (1 - ALPHA).sqrt() * eps
    cells = None if flat is None else torch.full((1, 1, 400, 400), flat)
    weight = torch.full((1, 1, 400, 400), 0.5)
    result = fuse_noise(x, eps, torch.zeros_like(x), noise, weight, ALPHA, inner_strength=inner, flat=cells)
    assert float(result.std() / (1 - ALPHA).sqrt()) == pytest.approx(spread, abs=5e-3)


def test_flat_cells_are_those_without_a_mask_edge_around_them() -> None:
    trust = torch.ones(1, 1, 6, 8)
    trust[..., 4:] = 0.25
    flat = flat_cells(trust)
    assert flat[0, 0].tolist() == [[True, True, True, False, False, True, True, True]] * 6
    assert flat_cells(torch.full((2, 1, 5, 5), 0.3)).all()


def test_the_last_picture_wins_and_hidden_places_stay_rough() -> None:
    rough, first, second = torch.zeros(3, 24, 24), torch.full((3, 24, 24), 0.5), torch.ones(3, 24, 24)
    nothing, all_of_it = torch.zeros(24, 24, dtype=torch.bool), torch.ones(24, 24, dtype=torch.bool)
    assert torch.equal(fuse_pictures(rough, (first, nothing), (second, nothing)), second)
    assert torch.equal(fuse_pictures(rough, (first, nothing), (second, all_of_it)), first)
    assert torch.equal(fuse_pictures(rough, (first, all_of_it), (second, all_of_it)), rough)
