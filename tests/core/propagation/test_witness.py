"""Two witnesses in one picture."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.propagation.engine import Carried
from zero2hero_core.propagation.witness import WitnessSettings, edited_places, is_faint, mix_witness

SIDE = 64


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A frame, its truth (changed in the left half), and doubt (high in the lower half)."""
    generator = torch.Generator().manual_seed(3)
    frame = torch.rand(3, SIDE, SIDE, generator=generator) * 0.5 + 0.2
    truth = frame.clone()
    truth[:, :, : SIDE // 2] += 0.2
    doubt = torch.zeros(SIDE, SIDE)
    doubt[SIDE // 2 :] = 0.8
    return frame, truth, doubt


def test_the_witness_is_asked_where_the_carried_change_is_in_doubt() -> None:
    frame, truth, doubt = scene()
    wrong = truth.clone()
    wrong[0, SIDE // 2 :, : SIDE // 2] += 0.1  # a colour that is lost below
    mixed, share = mix_witness(Carried(wrong, doubt), truth, frame)
    assert float(share[: SIDE // 2 - 4].max()) < 1e-6
    inner = share[SIDE // 2 + 8 : -4, 4 : SIDE // 2 - 8]
    assert torch.allclose(inner, torch.tensor(0.4), atol=0.01)  # half of the doubt
    before, after = ((picture - truth)[0, 44:60, 4:24].abs().mean() for picture in (wrong, mixed.picture))
    assert float(after / before) == pytest.approx(0.6, abs=0.01)
    assert torch.equal(mixed.error, doubt)


def lost(truth: torch.Tensor, doubt: torch.Tensor, error: float = 0.2) -> torch.Tensor:
    """The truth, but for a colour that is lost where it is in doubt."""
    wrong = truth.clone()
    wrong[0] = torch.where(doubt > 0.5, wrong[0] + error, wrong[0]).clamp(0, 1)
    return wrong


def test_where_nothing_is_left_of_the_trust_the_witness_alone_is_believed() -> None:
    frame, truth, doubt = scene()
    for level, expected in ((0.8, 0.4), (0.9, 0.225 + 0.5), (1.0, 1.0)):
        carried = Carried(lost(truth, doubt), torch.where(doubt > 0, level, 0.0))
        _, share = mix_witness(carried, truth, frame)
        assert torch.allclose(share[SIDE // 2 + 8 : -4, 4 : SIDE // 2 - 8], torch.tensor(expected), atol=0.01)


def test_a_witness_that_errs_everywhere_has_no_say() -> None:
    frame, truth, doubt = scene()
    shares = []
    for error in (0.0, 0.05, 0.1, 0.2):
        made = truth.clone()
        made[1] += error
        _, share = mix_witness(Carried(lost(truth, doubt), doubt), made.clamp(0, 1), frame)
        shares.append(float(share.max()))
    # the squared error of the lost colour, 0.2, beside the witness's own: 1 - e^2 / (0.2^2 + e^2)
    expected = [0.4 * (1 - error**2 / (0.04 + error**2)) for error in (0.0, 0.05, 0.1, 0.2)]
    assert shares == pytest.approx(expected, abs=0.02)
    _, share = mix_witness(Carried(truth, doubt), (truth + 0.1).clamp(0, 1), frame)
    assert float(share.max()) < 0.02  # no larger distance where it is in doubt: the carried change does not err


def test_only_the_low_band_of_the_witness_is_taken_over() -> None:
    frame, truth, doubt = scene()
    stripes = torch.zeros(SIDE)
    stripes[::2], stripes[1::2] = 0.05, -0.05
    settings = WitnessSettings(reach=12)
    wrong = truth - 0.1 * (doubt > 0.5)
    mixed, share = mix_witness(Carried(wrong, doubt), wrong + stripes + 0.1 * (doubt > 0.5), frame, settings)
    other, _ = mix_witness(Carried(wrong, doubt), wrong + 0.1 * (doubt > 0.5), frame, settings)
    assert float(share.max()) > 0.2 and float((mixed.picture - other.picture).abs().max()) < 5e-3


def test_what_nobody_edited_stays_untouched() -> None:
    frame, truth, doubt = scene()
    mixed, share = mix_witness(
        Carried(lost(truth, doubt * (frame[0] * 0 + torch.arange(SIDE) < SIDE // 2)), doubt), truth, frame
    )
    right = slice(SIDE // 2 + 8, None)
    assert torch.equal(mixed.picture[:, :, right], frame[:, :, right]) and float(share[:, right].max()) == 0


def test_strength_zero_changes_nothing() -> None:
    frame, truth, doubt = scene()
    mixed, share = mix_witness(Carried(truth, doubt), 1 - truth, frame, WitnessSettings(strength=0.0))
    assert torch.equal(mixed.picture, truth) and float(share.max()) == 0


def test_edited_places() -> None:
    frame, truth, doubt = scene()
    places = edited_places(Carried(truth, doubt * 0), frame)[0]
    assert float(places[:, : SIDE // 2].min()) == 1 and float(places[:, SIDE // 2 + 8 :].max()) == 0
    little = frame.clone()
    little[:, :, : SIDE // 2] += 1 / 255
    assert float(edited_places(Carried(little, doubt * 0), frame).max()) == 0  # one level is no change
    assert float(edited_places(Carried(frame, torch.ones(SIDE, SIDE)), frame).min()) == 1  # nothing is known


def test_a_faint_edit_is_told() -> None:
    frame, truth, _ = scene()
    assert not is_faint(truth, frame) and not is_faint(frame, frame)
    assert is_faint(frame + 3 / 255, frame)


def test_bad_input() -> None:
    frame, truth, doubt = scene()
    with pytest.raises(ShapeError, match="witness"):
        mix_witness(Carried(truth, doubt), truth[:, :32], frame)
    with pytest.raises(InputError, match="share"):
        WitnessSettings(share=2)
