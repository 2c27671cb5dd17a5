"""Laws of the deflicker: what it leaves alone, what averages out, what never mixes, and what it keeps in memory."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.flow.warp import warp_backward
from zero2hero_core.propagation.deflicker import (
    Deflicker,
    DeflickerSettings,
    local_gain,
    step_trust,
)

SIZE, COUNT = 32, 9


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def smooth(count: int, seed: int = 0) -> torch.Tensor:
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic", align_corners=True).clamp(0, 1)


def no_motion(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*source.shape[-2:], 2)


def work(original: torch.Tensor, stylised: torch.Tensor, window: int = 2, strength: float = 1.0, **more) -> Deflicker:
    settings = DeflickerSettings(window, strength)
    return Deflicker(original.__getitem__, stylised.__getitem__, len(original), settings, **{"flow": no_motion} | more)


def steady(*given, **more) -> torch.Tensor:
    one = work(*given, **more)
    return torch.stack([one.frame(number) for number in range(one.count)])


@pytest.mark.parametrize(("window", "strength"), [(0, 1.0), (2, 0.0)])
def test_off_is_off(window: int, strength: float) -> None:
    stylised = noise(COUNT)
    assert torch.equal(steady(smooth(COUNT), stylised, window, strength), stylised)


def test_a_still_clip_becomes_the_mean_of_the_window() -> None:
    original, stylised = smooth(1).expand(COUNT, -1, -1, -1), 0.3 + 0.4 * noise(COUNT)
    result = steady(original, stylised)
    for number, frames in ((4, stylised[2:7]), (0, stylised[:3]), (8, stylised[6:]), (1, stylised[:4])):
        assert torch.allclose(result[number], frames.mean(0), atol=1e-5)
    half = steady(original, stylised, 2, 0.5)
    assert torch.allclose(half, (stylised + result) / 2, atol=1e-5)


def test_what_is_steady_stays() -> None:
    original, stylised = smooth(1).expand(COUNT, -1, -1, -1), noise(1).expand(COUNT, -1, -1, -1)
    assert (steady(original, stylised) - stylised).abs().max() < 1e-5


def test_light_of_the_original_stays_in_the_style() -> None:
    """What the stylised clip does like the original is no flicker: a negative of a clip whose light changes."""
    texture = 0.2 + 0.3 * noise(1).expand(COUNT, -1, -1, -1)
    original = texture * torch.linspace(1, 1.06, COUNT).view(-1, 1, 1, 1) ** 2
    stylised = 0.9 - 0.8 * original
    first = steady(original, stylised, 4)[0] - stylised[0]
    mean = stylised[:5].mean(0) - stylised[0]
    assert first.abs().mean() < 0.15 * mean.abs().mean()


def test_gain_by_hand() -> None:
    guide = 0.8 * noise(1)[0]
    assert (local_gain(guide, 0.5 * guide + 0.1) - 0.5).abs().max() < 0.02
    assert (local_gain(guide, torch.full_like(guide, 0.3))).abs().max() < 1e-3
    assert (local_gain(torch.full_like(guide, 0.3), guide)).abs().max() < 1e-2


def test_it_follows_the_motion() -> None:
    """A texture that moves by one pixel a frame, with noise: the mean moves along."""
    wide, drawn = smooth(1)[0].repeat(1, 1, 2), noise(1, 1)[0].repeat(1, 1, 2)
    original, truth = (torch.stack([x[..., n : n + SIZE] for n in range(COUNT)]) for x in (wide, drawn))
    stylised = (0.25 + 0.5 * truth) + 0.1 * (noise(COUNT, 2) - 0.5)

    def moving(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        forward = (source[..., 1:] - target[..., :-1]).abs().max() < (target[..., 1:] - source[..., :-1]).abs().max()
        return torch.tensor([-1.0 if forward else 1.0, 0.0]).expand(SIZE, SIZE, 2)

    inner = (slice(None), slice(None), slice(None), slice(4, -4))
    error = (steady(original, stylised, flow=moving) - (0.25 + 0.5 * truth))[inner]
    assert error[2:-2].std() < 0.5 * (stylised - (0.25 + 0.5 * truth))[inner].std()  # 1 / sqrt(5) is 0.45


def test_nothing_is_mixed_across_a_cut() -> None:
    original = torch.cat([0.1 * smooth(1).expand(4, -1, -1, -1), 0.9 + 0.1 * smooth(1, 1).expand(5, -1, -1, -1)])
    stylised = torch.cat([torch.full((4, 3, SIZE, SIZE), 0.2), torch.full((5, 3, SIZE, SIZE), 0.8)])
    assert (steady(original, stylised, 4) - stylised).abs().max() < 0.01


def test_where_flows_disagree_the_own_pixel_stays() -> None:
    def lost(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.full((SIZE, SIZE, 2), 20.0)  # both ways: no loop closes, and half of it points outside

    stylised = noise(COUNT)
    assert (steady(smooth(1).expand(COUNT, -1, -1, -1), stylised, flow=lost) - stylised).abs().max() < 0.01


def test_any_order_and_any_start_give_the_same_frames() -> None:
    original, stylised = smooth(COUNT), noise(COUNT)
    rising, free = steady(original, stylised), work(original, stylised)
    for number in (8, 3, 0, 5, 4):
        assert torch.equal(free.frame(number), rising[number])
        assert torch.equal(work(original, stylised).frame(number), rising[number])


def test_each_frame_is_read_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    flows: list[int] = []
    original, stylised = smooth(30), noise(30)

    def read(number: int) -> torch.Tensor:
        reads.append(number)
        return original[number]

    def counted(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        flows.append(1)
        return no_motion(source, target)

    one = Deflicker(read, stylised.__getitem__, 30, DeflickerSettings(3), flow=counted)
    for number in range(30):
        one.frame(number)
        assert len(one._pictures) <= 7 and len(one._steps) <= 7
    assert reads == list(range(30)) and len(flows) == 2 * 29


def test_trust_by_hand() -> None:
    flow = torch.zeros(4, 4, 2)
    assert step_trust(flow, flow).eq(1).all()
    assert step_trust(flow + 2, flow - 1)[0, 0, 0].item() == pytest.approx(1 / 3)  # |(1, 1)|^2 is 2


def test_a_sharp_warp_of_whole_pixels_is_exact() -> None:
    picture = noise(1)[0]
    moved = warp_backward(picture, torch.tensor([2.0, 1.0]).expand(SIZE, SIZE, 2), mode="bicubic")
    assert (moved[:, :-1, :-2] - picture[:, 1:, 2:]).abs().max() < 1e-5


def test_refusals() -> None:
    with pytest.raises(InputError, match="window: expected a value from 0 to 60, got 61"):
        DeflickerSettings(61)
    with pytest.raises(InputError, match="window: expected a whole number, got 2.5"):
        DeflickerSettings(2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strength: expected a value from 0 to 1, got -1"):
        DeflickerSettings(2, -1)
    with pytest.raises(ShapeError, match="stylised: expected pictures of the originals' size"):
        work(smooth(3), noise(3)[..., :16]).frame(0)
