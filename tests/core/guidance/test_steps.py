"""Windows, the start of a sampling, shared noise."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.diffusion.ddim import DDIMSchedule, stable_diffusion_alphas
from zero2hero_core.diffusion.ddpm import ddpm_move
from zero2hero_core.guidance.pixel_target import PixelSettings
from zero2hero_core.guidance.settings import RerenderSettings
from zero2hero_core.guidance.steps import Sampling, closed_window, first_step, open_window


@pytest.mark.parametrize(
    ("window", "steps"),
    [((0.0, 1.0), range(20)), ((0.0, 0.1), range(3)), ((0.8, 1.0), range(16, 20)), ((1.0, 1.0), range(20, 20))],
)
def test_closed_windows_hold_both_ends(window: tuple[float, float], steps: range) -> None:
    assert list(closed_window(window, 20)) == list(steps)


def test_open_windows_hold_neither_end() -> None:
    assert list(open_window((0.5, 0.8), 20)) == [11, 12, 13, 14, 15]
    assert list(open_window((0.0, 1.0), 4)) == [1, 2, 3]
    assert list(open_window((0.5, 0.5), 20)) == [] == list(open_window((0.5, 0.8), 1))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 20, 25, 50, 100, 999, 1000])
def test_windows_in_hundredths_are_exact_for_any_number_of_steps(count: int) -> None:
    for start in range(0, 101, 3):
        for end in range(start, 101, 7):
            window = (start / 100, end / 100)
            closed = [step for step in range(count) if count * start <= 100 * step <= count * end]
            inner = [step for step in range(count) if count * start < 100 * step < count * end]
            assert list(closed_window(window, count)) == closed and list(open_window(window, count)) == inner


@pytest.mark.parametrize(
    ("strength", "step"), [(0.75, 5), (0.8, 4), (0.95, 1), (1.0, 0), (0.0, 20), (1.05, None), (0.7, 6), (0.9, 2)]
)
def test_where_the_input_comes_in(strength: float, step: int | None) -> None:
    assert first_step(strength, 20) == step


def test_twenty_steps_begin_at_701_with_three_quarters() -> None:
    sampling = Sampling(DDIMSchedule(stable_diffusion_alphas(), 20), 0)
    assert sampling.timesteps[first_step(0.75, 20) or 0] == 701
    assert float(sampling.alphas(19)[1]) == 1.0
    assert torch.equal(sampling.alphas(18)[1], sampling.alphas(19)[0])


def test_noise_is_shared_by_frames_and_differs_by_step_and_seed() -> None:
    latents = torch.zeros(3, 4, 8, 8)
    one, other = (Sampling(DDIMSchedule(stable_diffusion_alphas(), 20), seed) for seed in (0, 1))
    assert one.start_noise(latents).shape == (1, 4, 8, 8)
    assert torch.equal(one.step_noise(3, latents), one.step_noise(3, latents[:1]))
    noises = [one.start_noise(latents), one.step_noise(0, latents), one.step_noise(1, latents)]
    noises += [other.start_noise(latents), other.step_noise(0, latents)]
    assert all(not torch.equal(a, b) for place, a in enumerate(noises) for b in noises[:place])


def test_ancestral_steps_keep_the_distribution() -> None:
    """Of clean data 0 all that is left at a level is noise of spread sqrt(1 - alpha)."""
    generator = torch.Generator().manual_seed(0)
    alpha_from, alpha_to = torch.tensor(0.3), torch.tensor(0.6)
    x = (1 - alpha_from).sqrt() * torch.randn(1, 1, 500, 500, generator=generator)
    noise = torch.randn(1, 1, 500, 500, generator=generator)
    moved = ddpm_move(x, torch.zeros_like(x), noise, alpha_from, alpha_to)
    assert float(moved.std()) == pytest.approx(float((1 - alpha_to).sqrt()), abs=3e-3)
    clean = torch.full_like(x, 0.7)
    assert torch.allclose(ddpm_move(x, clean, noise, alpha_from, torch.tensor(1.0)), clean)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cross_window": (0.5, 0.2)}, "cross_window: expected 0 <= start <= end <= 1"),
        ({"strength": 1.2}, "strength: expected a value from 0 to 1.05, got 1.2"),
        ({"steps": 0}, "steps: expected a value from 1 to 999, got 0"),
        ({"update_every": 0}, "update_every: expected a whole number of keys from 1 up, got 0"),
    ],
)
def test_settings_out_of_range(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        RerenderSettings(**values)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_pixel_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="inner_strength: expected a value from 0 to 1, got 2"):
        PixelSettings(inner_strength=2.0)
