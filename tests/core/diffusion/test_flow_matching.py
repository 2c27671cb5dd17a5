"""Noise levels of flow-matching sampling, against hand values and against diffusers' numbers."""

from __future__ import annotations

import math

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.diffusion.flow_matching import draw_sigma, flow_sigmas, flux1_mu, flux2_mu, mix_noise


def test_unshifted_levels_are_even_from_one_to_zero():
    assert flow_sigmas(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert flow_sigmas(1).tolist() == [1, 0]


def test_the_shift_by_hand():
    # e^mu = 3: 3 / (3 + 1/sigma - 1), so 3 / (3 + 1/3), 3 / (3 + 1), 3 / (3 + 3)
    torch.testing.assert_close(flow_sigmas(4, math.log(3)), torch.tensor([1, 0.9, 0.75, 0.5, 0]))


def test_shifted_levels_are_those_of_the_stock_scheduler():
    # diffusers 0.42: s = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    # s.set_timesteps(sigmas=np.linspace(1, 1 / 4, 4), mu=0.7); s.sigmas.tolist()
    expected = [1.0, 0.857979953289032, 0.6681877970695496, 0.4016457796096802, 0.0]
    torch.testing.assert_close(flow_sigmas(4, 0.7), torch.tensor(expected))


@pytest.mark.parametrize("mu", [None, 0.0, 0.5, 1.15, 3.0])
def test_levels_fall_all_the_way(mu):
    sigmas = flow_sigmas(25, mu)
    assert len(sigmas) == 26 and sigmas[0] == pytest.approx(1) and sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())
    if mu is not None:
        assert bool((sigmas >= flow_sigmas(25) - 1e-6).all())  # more steps at high noise


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    with pytest.raises(InputError, match=f"steps: expected a value from 1 to 1000, got {steps}"):
        flow_sigmas(steps)


def test_the_shift_of_flux_1():
    assert flux1_mu(256, 25) == 0.5
    assert flux1_mu(4096, 25) == pytest.approx(1.15, abs=1e-12)
    assert flux1_mu(1024, 25) == pytest.approx(0.63, abs=1e-12)  # 512 px: 0.5 + 768 / 3840 * 0.65


def test_the_shift_of_flux_2():
    # diffusers 0.42: diffusers.pipelines.flux2.pipeline_flux2.compute_empirical_mu(tokens, steps)
    expected = {
        (1024, 10): 1.9878114252576,
        (1024, 200): 0.62999914,
        (1024, 25): 1.880615718526737,
        (4300, 25): 2.1880548122684207,
        (4301, 25): 1.18469693,
        (4608, 50): 1.23666282,
    }
    for given, mu in expected.items():
        assert flux2_mu(*given) == pytest.approx(mu, abs=1e-9), given


def test_noise_levels_of_training():
    def draw(high_noise: float) -> torch.Tensor:
        return draw_sigma(4096, high_noise, torch.Generator().manual_seed(0)).sort().values

    even = torch.linspace(0, 1, 4096)
    for high_noise, expected in (
        (0.0, even),
        (1.0, 1 - even.flip(0) ** 3),
        (0.5, torch.cat([even, 1 - even**3]).sort().values[::2]),
    ):
        found = draw(high_noise)
        assert float(found[0]) >= 0 and float(found[-1]) <= 1
        assert float((found - expected).abs().max()) < 0.06, high_noise


def test_noise_is_mixed_row_by_row():
    latents, noise = torch.full((3, 2, 1, 1), 2.0), torch.full((3, 2, 1, 1), 10.0)
    mixed = mix_noise(latents, noise, torch.tensor([0, 0.25, 1]))
    assert mixed[:, 0, 0, 0].tolist() == [2, 4, 10]


def test_an_euler_step_along_the_true_velocity_arrives():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 4, 3, 3, generator=generator)
    x = noise
    for sigma, following in zip(flow_sigmas(5, 0.7), flow_sigmas(5, 0.7)[1:], strict=False):
        torch.testing.assert_close(x, mix_noise(latents, noise, sigma[None]))
        x = x + (noise - latents) * (following - sigma)
    torch.testing.assert_close(x, latents)
