"""The objective on features: its gradient against autograd and finite differences, its memory and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.evaluation.speed.live_bytes import LivePeak
from zero2hero_core.flow.warp import warp_backward
from zero2hero_core.guidance.feature_objective import FeatureObjective, as_tables, descend, read_pairs, unit_rows
from zero2hero_core.guidance.motion import BatchMotion

TEMPORAL, SPATIAL = 2.0, 100.0


def random_motion(count: int, height: int, width: int) -> BatchMotion:
    generator = torch.Generator().manual_seed(3)
    flows = 2 * torch.randn(2, count, height, width, 2, generator=generator, dtype=torch.float64)
    hidden = torch.rand(2, count, height, width, generator=generator) < 0.2
    frames = torch.rand(count, 3, height, width, generator=generator)
    return BatchMotion(frames, flows[0], flows[1], hidden[0], hidden[1])


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(
    features: torch.Tensor, motion: BatchMotion, reference: torch.Tensor, temporal: float, spatial: float
) -> torch.Tensor:
    """The objective as the paper's formulas have it, for autograd."""
    count = len(features)
    missed = []
    for place in range(count if count > 1 else 0):
        one, other = features[place], features[(place + 1) % count]
        later = (other - warp_backward(one, motion.backward[place])).abs() * ~motion.backward_occlusion[place]
        earlier = (one - warp_backward(other, motion.forward[place])).abs() * ~motion.forward_occlusion[place]
        missed.append(later + earlier)
    units, wanted = (F.normalize(one.flatten(2), dim=1) for one in (features, reference))
    unlike = (units.mT @ units - wanted.mT @ wanted).abs().mean()
    return spatial * unlike + (temporal * torch.stack(missed).mean() if missed else 0)


def autograd(
    features: torch.Tensor, motion: BatchMotion, reference: torch.Tensor, temporal: float, spatial: float
) -> torch.Tensor:
    leaf = features.clone().requires_grad_()
    plain(leaf, motion, reference, temporal, spatial).backward()
    assert leaf.grad is not None
    return leaf.grad


def gradient_of(objective: FeatureObjective, features: torch.Tensor) -> torch.Tensor:
    tables = torch.stack(list(objective.gradients(as_tables(features))))
    return tables.mT.reshape(features.shape)


def objective_of(
    motion: BatchMotion,
    reference: torch.Tensor,
    temporal: float = TEMPORAL,
    spatial: float = SPATIAL,
    block: int = 256,
) -> FeatureObjective:
    units = unit_rows(as_tables(reference))
    return FeatureObjective(read_pairs(motion, units), units, temporal=temporal, spatial=spatial, block=block)


CASES = [(count, *weights) for count in (2, 3, 5) for weights in ((TEMPORAL, SPATIAL), (TEMPORAL, 0.0), (0.0, SPATIAL))]


@pytest.mark.parametrize(("count", "temporal", "spatial"), [(1, TEMPORAL, SPATIAL), *CASES])
def test_gradient_is_that_of_autograd(count: int, temporal: float, spatial: float) -> None:
    features, reference = random_features(count, 6, 5, 8), random_features(count, 6, 5, 8, seed=1)
    motion = random_motion(count, 5, 8)
    gradient = gradient_of(objective_of(motion, reference, temporal, spatial), features)
    assert torch.allclose(gradient, autograd(features, motion, reference, temporal, spatial), rtol=1e-10, atol=1e-15)


def test_gradient_is_that_of_autograd_in_single_precision() -> None:
    features, reference = random_features(3, 40, 12, 16), random_features(3, 40, 12, 16, seed=1)
    motion = random_motion(3, 12, 16)
    wanted = autograd(features, motion, reference, TEMPORAL, SPATIAL)
    gradient = gradient_of(objective_of(motion, reference.float()), features.float()).double()
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_gradient_is_the_slope_of_the_value() -> None:
    features, reference = random_features(3, 6, 5, 8), random_features(3, 6, 5, 8, seed=1)
    objective = objective_of(random_motion(3, 5, 8), reference)
    gradient = as_tables(gradient_of(objective, features))
    tables, step = as_tables(features), 1e-6
    for seed in range(5):
        way = torch.zeros_like(tables).flatten()
        way[torch.randperm(way.numel(), generator=torch.Generator().manual_seed(seed))[:4]] = 1.0
        way = way.view_as(tables)
        slope = (objective.value(tables + step * way) - objective.value(tables - step * way)) / (2 * step)
        assert slope == pytest.approx(float((gradient * way).sum()), rel=1e-5, abs=1e-8)


def test_value_is_the_plain_one() -> None:
    features, reference = random_features(4, 6, 5, 8), random_features(4, 6, 5, 8, seed=1)
    motion = random_motion(4, 5, 8)
    for weights in ((TEMPORAL, SPATIAL), (TEMPORAL, 0.0), (0.0, SPATIAL)):
        value = objective_of(motion, reference, *weights, block=7).value(as_tables(features))
        assert value == pytest.approx(float(plain(features, motion, reference, *weights)), rel=1e-12)


@pytest.mark.parametrize("channels", [6, 60])  # the target is computed again, and kept
def test_blocks_change_nothing(channels: int) -> None:
    features, reference = random_features(2, channels, 5, 8), random_features(2, channels, 5, 8, seed=1)
    motion = random_motion(2, 5, 8)
    wanted = gradient_of(objective_of(motion, reference, block=40), features)
    for block in (1, 7, 39, 64):
        gradient = gradient_of(objective_of(motion, reference, block=block), features)
        assert torch.allclose(gradient, wanted, rtol=1e-9, atol=1e-15)


def test_a_frame_may_change_once_its_gradient_is_out() -> None:
    tables = as_tables(random_features(4, 6, 5, 8))
    objective = objective_of(random_motion(4, 5, 8), random_features(4, 6, 5, 8, seed=1))
    wanted = [gradient.clone() for gradient in objective.gradients(tables)]
    for place, gradient in enumerate(objective.gradients(tables)):
        assert torch.equal(gradient, wanted[place])
        gradient.fill_(1e9)
        tables[place] = 1e9


def test_frames_that_hide_everything_from_each_other_are_not_drawn_together() -> None:
    motion = random_motion(3, 5, 8)
    everywhere = torch.ones(3, 5, 8, dtype=torch.bool)
    hidden = replace(motion, forward_occlusion=everywhere, backward_occlusion=everywhere)
    objective = objective_of(hidden, random_features(3, 6, 5, 8), spatial=0)
    assert not gradient_of(objective, random_features(3, 6, 5, 8)).any()


def test_descent_is_adam() -> None:
    features, reference = random_features(3, 6, 5, 8), random_features(3, 6, 5, 8, seed=1)
    motion = random_motion(3, 5, 8)
    tables, objective = as_tables(features), objective_of(motion, reference)
    before = objective.value(tables)
    assert descend(tables, objective, iterations=20, rate=0.2)
    leaf = features.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=0.2)
    for _ in range(20):
        adam.zero_grad()
        plain(leaf, motion, reference, TEMPORAL, SPATIAL).backward()
        adam.step()
    assert torch.allclose(tables.mT.reshape(features.shape), leaf.detach(), atol=1e-9)
    assert objective.value(tables) < 0.8 * before


@pytest.mark.parametrize("channels", [3, 60])
def test_descent_leaves_consistent_features_alone(channels: int) -> None:
    features = random_features(1, channels, 5, 8).float().expand(3, -1, -1, -1)
    still = torch.zeros(3, 5, 8, 2)
    shown = torch.zeros(3, 5, 8, dtype=torch.bool)
    objective = objective_of(BatchMotion(torch.zeros(3, 3, 5, 8), still, still, shown, shown), features, block=7)
    tables = as_tables(features)
    assert not descend(tables, objective, iterations=20, rate=0.2)
    assert torch.equal(tables, as_tables(features))
    tables[1, 2, 0] += 1e-3
    assert descend(tables, objective, iterations=1, rate=0.2)


def test_no_terms_are_no_objective() -> None:
    units = unit_rows(as_tables(random_features(1, 6, 5, 8)))
    lone = FeatureObjective(read_pairs(random_motion(1, 5, 8), units), units, spatial=0)
    assert not lone
    tables = as_tables(random_features(1, 6, 5, 8))
    assert not descend(tables, lone, iterations=20, rate=0.2)
    assert not any(bool(gradient.any()) for gradient in lone.gradients(tables))
    assert lone.value(tables) == 0
    assert FeatureObjective(read_pairs(random_motion(2, 5, 8), units), spatial=0)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="reference"):
        FeatureObjective()
    objective = objective_of(random_motion(2, 5, 8), random_features(2, 6, 5, 8))
    for tables, words in (
        (torch.zeros(3, 40, 6, dtype=torch.float64), "expected 2 frames"),
        (torch.zeros(2, 40), "tables"),
        (torch.zeros(2, 40, 5, dtype=torch.float64), "features"),
    ):
        with pytest.raises(ShapeError, match=words):
            list(objective.gradients(tables))


def test_tables_are_copies_and_half_precision_becomes_single() -> None:
    features = random_features(2, 3, 2, 2).half().to(memory_format=torch.channels_last)
    tables = as_tables(features)
    assert tables.dtype == torch.float32
    assert tables.shape == (2, 4, 3)
    assert float(tables[1, 2, 0]) == float(features[1, 0, 1, 0])
    single = random_features(2, 3, 2, 2).float().to(memory_format=torch.channels_last)
    as_tables(single).zero_()
    assert bool(single.any())


def most_bytes(count: int, channels: int, side: int, block: int) -> int:
    """What an optimisation may hold, features, reference and motion counted: five times the features (with the copy
    that changes and two moments), six times a frame, two blocks, and the motion with its readings."""
    frame = 4 * channels * side**2
    motion = count * side**2 * (2 * (2 * 4 + 1) + 4 * (4 * (8 + 4) + 8 + 4))
    return 5 * count * frame + 6 * frame + 2 * 4 * block * side**2 + motion


def test_memory_at_eight_frames_is_half_a_gigabyte_at_most() -> None:
    assert most_bytes(8, 640, 64, 256) <= 0.5e9
    features, reference = random_features(8, 160, 24, 24).float(), random_features(8, 160, 24, 24, seed=1).float()
    exact, units = random_motion(8, 24, 24), unit_rows(as_tables(reference))
    motion = replace(exact, forward=exact.forward.float(), backward=exact.backward.float())
    del reference, exact
    with LivePeak() as live:
        tables = as_tables(features)
        objective = FeatureObjective(read_pairs(motion, tables), units, block=32)
        assert descend(tables, objective, iterations=2, rate=0.2)
    assert 5 * 4 * features.numel() < live.peak <= most_bytes(8, 160, 24, 32)


def fastest(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_is_faster_than_autograd() -> None:
    features, reference = random_features(2, 160, 48, 48).float(), random_features(2, 160, 48, 48, seed=1).float()
    motion = random_motion(2, 48, 48)
    objective, tables = objective_of(motion, reference), as_tables(features)
    ours = fastest(lambda: sum(1 for _ in objective.gradients(tables)))
    theirs = fastest(lambda: autograd(features, motion, reference, TEMPORAL, SPATIAL))
    assert theirs >= 2 * ours, f"{ours:.3f} s against {theirs:.3f} s"
