"""What a colour changes to, by hand: one change, two changes of two colours, two of one, nothing known."""

from __future__ import annotations

import torch

from zero2hero_core.propagation.change import ChangeSettings, KeyChange
from zero2hero_core.propagation.colour_prior import colour_regression

RED, GREEN = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.2, 0.8, 0.2])


def halves(left: torch.Tensor, right: torch.Tensor, side: int = 16) -> torch.Tensor:
    """(C, side, side) with one colour on either side."""
    picture = torch.empty(len(left), side, side)
    picture[:, :, : side // 2], picture[:, :, side // 2 :] = left[:, None, None], right[:, None, None]
    return picture


def test_two_colours_keep_their_two_changes() -> None:
    field = halves(torch.tensor([0.3]), torch.tensor([-0.1]))
    mean, variance, known = colour_regression(field, halves(RED, GREEN), torch.ones(16, 16))
    assert torch.allclose(mean, field, atol=2e-3)
    assert float(variance.max()) < 2e-3 and 0.8 < float(known.min()) <= float(known.max()) < 1


def test_one_colour_that_changes_in_two_ways_says_so() -> None:
    field = halves(torch.tensor([0.3]), torch.tensor([-0.1]))
    mean, variance, _ = colour_regression(field, halves(RED, RED), torch.ones(16, 16))
    assert torch.allclose(mean, torch.full_like(mean, 0.1), atol=1e-5)
    assert torch.allclose(variance, torch.full_like(variance, 0.04), atol=1e-5)  # half of 0.4, squared


def test_places_have_as_much_say_as_they_are_trusted() -> None:
    field, weight = halves(torch.tensor([0.3]), torch.tensor([-0.1])), torch.ones(16, 16)
    weight[:, 8:] = 0
    mean, _, _ = colour_regression(field, halves(RED, RED), weight)
    assert torch.allclose(mean, torch.full_like(mean, 0.3), atol=1e-5)


def test_nothing_is_known_where_nothing_is_trusted() -> None:
    mean, variance, known = colour_regression(torch.rand(3, 16, 16), torch.rand(3, 16, 16), torch.zeros(16, 16))
    assert float(known.max()) == 0 and bool(torch.isfinite(mean).all() and torch.isfinite(variance).all())


def test_what_comes_into_view_does_not_take_the_change_of_what_moved_away() -> None:
    """A red thing that was painted moves to the right; the green behind it stays green, although the flow is wrong."""
    key, frame = (torch.stack([GREEN] * 64 * 64).view(64, 64, 3).permute(2, 0, 1).contiguous() for _ in range(2))
    key[:, 16:48, 8:32], frame[:, 16:48, 32:56] = RED[:, None, None], RED[:, None, None]
    edit = key.clone()
    edit[:, 16:48, 8:32] = torch.tensor([0.2, 0.2, 0.9])[:, None, None]
    flow, trust = torch.zeros(64, 64, 2), torch.ones(64, 64)
    flow[16:48, 32:56, 0] = -24
    trust[16:48, 8:32] = 0  # uncovered: the flow stays on the thing
    picture, _ = KeyChange(key, edit, ChangeSettings()).carry(frame, flow, trust)
    assert (picture[:, 20:44, 36:52] - edit[:, 20:44, 12:28]).abs().max() < 0.02
    assert (picture[:, 20:44, 12:28] - frame[:, 20:44, 12:28]).abs().mean() < 0.05
