"""The trainer: only adapters move, it memorises, it repeats itself to the bit (also resumed), and it stops on NaN."""

from __future__ import annotations

import errno
import sys
from dataclasses import asdict, replace
from typing import Any, BinaryIO

import pytest
import torch
import torch.nn.functional as F

from tiny_models import random_dit
from zero2hero_core.attention.conditions import pack_latents, unpack_latents
from zero2hero_core.checks import InputError, ShapeError, Zero2HeroError
from zero2hero_core.diffusion.flow_matching import mix_noise
from zero2hero_core.hero_stage.lora.adapters import HeroLoRA
from zero2hero_core.hero_stage.sampling import run_conditions
from zero2hero_core.hero_stage.stage import HeroStage, RestoreSettings
from zero2hero_core.hero_stage.training import trainer as hero_training
from zero2hero_core.hero_stage.training.pairs import TrainingPair
from zero2hero_core.hero_stage.training.trainer import HeroSettings, HeroTrainer
from zero2hero_core.paper import MODES

CHANNELS, GRID = 32, (2, 2)
QUICK = HeroSettings(rank=4, learning_rate=1e-2, steps=5)


def make_pairs(number: int = 1, conditions: int = 2, grid: tuple[int, int] = GRID) -> list[TrainingPair]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(number, conditions + 1, 1, CHANNELS, *grid, generator=generator)
    return [TrainingPair(tuple(row[:-1]), row[-1]) for row in latents]


def make_trainer(settings: HeroSettings = QUICK, pairs: list[TrainingPair] | None = None) -> HeroTrainer:
    return HeroTrainer(random_dit(), pairs or make_pairs(conditions=len(settings.kinds)), settings)


def weights(trainer: HeroTrainer) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in trainer.lora.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def fixed_loss(trainer: HeroTrainer) -> float:
    """Loss on the first pair at noise levels that are always the same."""
    generator = torch.Generator().manual_seed(2)
    pair, sigma = trainer.pairs[0], torch.linspace(0.1, 0.9, 8)
    noise = torch.randn(8, *pair.target.shape[1:], generator=generator)
    settings = trainer.settings
    with torch.no_grad():
        conditions = run_conditions(
            trainer.backbone, trainer.lora, settings.kinds, pair.conditions, GRID, guidance=settings.guidance_scale
        )
        noisy = mix_noise(pair.target.expand_as(noise), noise, sigma)
        velocity = trainer.backbone.velocity(noisy, sigma, conditions, guidance=settings.guidance_scale)
    return float(F.mse_loss(velocity, noise - pair.target))


# --- what a step does -------------------------------------------------------------------------------------------------


def test_only_adapter_weights_move():
    trainer = make_trainer()
    transformer, adapters = trainer.backbone.transformer, weights(trainer)
    base = {key: tensor.clone() for key, tensor in transformer.state_dict().items() if "lora_" not in key}
    for _ in range(3):
        trainer.step()
    after = transformer.state_dict()
    assert_equal(base, {key: after[key] for key in base})
    assert all(parameter.grad is None for parameter in transformer.parameters())
    moved = [key for key, tensor in weights(trainer).items() if not torch.equal(tensor, adapters[key])]
    # What the last block puts out after its keys and values is not used in a condition pass: no gradient there.
    unused = [key for key in adapters if "single_transformer_blocks.0.attn.to_q" in key]
    assert set(moved) | set(unused) == set(adapters)


def test_it_memorises_one_pair():
    trainer = make_trainer(replace(QUICK, rank=8, learning_rate=3e-2, draws=4))
    before = fixed_loss(trainer)
    for _ in range(40):
        trainer.step()
    assert fixed_loss(trainer) < 0.8 * before
    assert trainer.done == 40


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    settings, pairs = replace(QUICK, batch=2, draws=2), make_pairs(3)
    runs = [make_trainer(replace(settings, seed=seed), pairs) for seed in (0, 0, 1)]
    losses = [[trainer.step() for _ in range(3)] for trainer in runs]
    assert losses[0] == losses[1] and losses[0] != losses[2]
    assert_equal(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(*(next(iter(weights(trainer).values())) for trainer in runs[1:]))


def test_torchs_global_random_state_plays_no_part():
    runs = []
    for seed in (3, 4):
        trainer = make_trainer()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        trainer.step()
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(weights(trainer))
    assert_equal(*runs)


def test_draws_are_the_mean_over_single_draws_and_share_the_condition_passes(monkeypatch):
    trainer = make_trainer(replace(QUICK, draws=3, clip_norm=0, guidance_scale=2.5))
    backbone, seen, sizes = trainer.backbone, {}, []
    velocity, condition = backbone.velocity, backbone.condition

    def seen_velocity(packed: torch.Tensor, sigma: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        seen.update(noisy=packed, sigma=sigma, guidance=named["guidance"])
        return velocity(packed, sigma, *args, **named)

    def seen_condition(packed: torch.Tensor, *args: Any, **named: Any) -> Any:
        sizes.append(len(packed))
        return condition(packed, *args, **named)

    monkeypatch.setattr(backbone, "velocity", seen_velocity)
    monkeypatch.setattr(backbone, "condition", seen_condition)
    gradients: list[torch.Tensor] = []
    parameters = trainer.lora.parameters()
    used = [n for n, key in enumerate(trainer.lora.state_dict()) if "single_transformer_blocks.0.attn.to_q" not in key]
    monkeypatch.setattr(trainer.optimiser, "step", lambda: gradients.extend(parameters[n].grad.clone() for n in used))
    loss = trainer.step()
    assert sizes == [1, 1] and seen["guidance"] == 2.5

    target, inputs = trainer.pairs[0].target, trainer.pairs[0].conditions
    singles, total = [], [torch.zeros_like(g) for g in gradients]
    for noisy, sigma in zip(seen["noisy"][:, None], seen["sigma"][:, None], strict=True):
        noise = (noisy - (1 - sigma) * target) / sigma
        conditions = run_conditions(backbone, trainer.lora, trainer.settings.kinds, inputs, GRID, guidance=2.5)
        single = F.mse_loss(velocity(noisy, sigma, conditions, guidance=2.5), noise - target)
        single.backward()
        singles.append(float(single.detach()))
        for n, place in enumerate(used):
            total[n] += parameters[place].grad / 3
            parameters[place].grad = None
    assert loss == pytest.approx(sum(singles) / 3, rel=1e-5)
    for got, want in zip(gradients, total, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


def test_a_batch_draws_from_all_pairs(monkeypatch):
    pairs = make_pairs(3)
    trainer = make_trainer(replace(QUICK, batch=2), pairs)
    seen: list[torch.Tensor] = []
    condition = trainer.backbone.condition

    def seen_condition(packed: torch.Tensor, *args: Any, **named: Any) -> Any:
        seen.append(packed)
        return condition(packed, *args, **named)

    monkeypatch.setattr(trainer.backbone, "condition", seen_condition)
    drawn = []
    for _ in range(8):
        trainer.step()
        zero, frame = seen[-2:]
        assert len(zero) == len(frame) == 2
        for a, b in zip(zero, frame, strict=True):
            places = [n for n, pair in enumerate(pairs) if torch.equal(pair.conditions[0][0], a)]
            assert len(places) == 1 and torch.equal(pairs[places[0]].conditions[1][0], b)  # rows stay together
            drawn += places
    assert set(drawn) == {0, 1, 2}


def test_noise_levels_are_uniform(monkeypatch):
    trainer = make_trainer(replace(QUICK, draws=16))
    levels: list[torch.Tensor] = []
    velocity = trainer.backbone.velocity

    def seen(packed: torch.Tensor, sigma: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        levels.append(sigma)
        return velocity(packed, sigma, *args, **named)

    monkeypatch.setattr(trainer.backbone, "velocity", seen)
    for _ in range(16):
        trainer.step()
    found = torch.cat(levels).sort().values
    assert float((found - torch.linspace(0, 1, 256)).abs().max()) < 0.1  # Kolmogorov-Smirnov, 256 draws


def test_a_crop_is_the_same_for_conditions_and_target(monkeypatch):
    cells = torch.arange(8.0 * 12).view(1, 1, 8, 12)  # every cell of the unpacked latents has a number of its own
    whole = pack_latents(cells.expand(1, CHANNELS // 4, -1, -1))
    pair = TrainingPair((whole, whole + 1000), whole + 2000)
    trainer = make_trainer(replace(QUICK, crop=0.5, learning_rate=0), [pair])
    seen: list[torch.Tensor] = []
    condition = trainer.backbone.condition

    def seen_condition(packed: torch.Tensor, *args: Any, **named: Any) -> Any:
        seen.append(packed)
        return condition(packed, *args, **named)

    def seen_target(target: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(target)
        return mix_noise(target, *args)

    monkeypatch.setattr(trainer.backbone, "condition", seen_condition)
    monkeypatch.setattr(hero_training, "mix_noise", seen_target)
    places = []
    for _ in range(20):
        trainer.step()
        zero, frame, target = seen[-3:]
        assert zero.shape == (1, CHANNELS, 2, 3)  # half of 4 x 6 cells
        assert torch.equal(frame - 1000, zero) and torch.equal(target - 2000, zero)
        row = unpack_latents(zero)[0, 0]
        y, x = divmod(int(row[0, 0]), 12)
        assert torch.equal(row, cells[0, 0, y : y + 4, x : x + 6]) and y % 2 == x % 2 == 0
        places.append((y, x))
    assert len(set(places)) > 4


def test_the_learning_rate_falls_along_half_a_cosine_if_it_is_to():
    decaying, constant = (make_trainer(replace(QUICK, steps=4, decay=flag)) for flag in (True, False))
    rates = []
    for _ in range(4):
        rates.append(decaying.rate())
        decaying.step()
        constant.step()
        assert decaying.optimiser.param_groups[0]["lr"] == rates[-1]
        assert constant.optimiser.param_groups[0]["lr"] == constant.rate() == 0.01
    assert rates == pytest.approx([0.01, 0.00853553391, 0.005, 0.00146446609])  # 0.005 (1 + cos(n pi / 4))
    assert decaying.rate() == 0


def test_checkpointing_changes_memory_not_losses():
    plain, saving = (make_trainer(replace(QUICK, checkpointing=flag, draws=2)) for flag in (False, True))
    for _ in range(3):
        assert saving.step() == pytest.approx(plain.step(), abs=1e-6)
    for key, tensor in weights(plain).items():
        torch.testing.assert_close(weights(saving)[key], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_with_its_conditions(mode):
    trainer = make_trainer(replace(QUICK, mode=mode))
    assert trainer.lora.count == len(MODES[mode])
    assert trainer.step() > 0


def test_close_gives_the_stock_model_back():
    backbone, pairs = random_dit(), make_pairs()
    before = {key: tensor.clone() for key, tensor in backbone.transformer.state_dict().items()}
    trainer = HeroTrainer(backbone, pairs, replace(QUICK, checkpointing=True))
    trainer.step()
    trainer.close()
    assert_equal(dict(backbone.transformer.state_dict()), before)
    assert not backbone.transformer.gradient_checkpointing
    HeroTrainer(backbone, pairs, QUICK).step()  # and another training may begin


def test_pairs_that_do_not_fit_are_refused_and_leave_the_model_alone():
    backbone, (pair,) = random_dit(), make_pairs()
    other = make_pairs(grid=(2, 4))[0]
    wide = torch.zeros(1, CHANNELS + 4, *GRID)
    bad: list[tuple[list[TrainingPair], type[Exception], str]] = [
        ([], InputError, "expected at least one pair"),
        ([TrainingPair(pair.conditions[:1], pair.target)], ShapeError, "expected 2 conditions in this mode, got 1"),
        ([pair, other], ShapeError, "training pairs: expected one size"),
        ([TrainingPair(pair.conditions, wide)], ShapeError, "target: expected shape"),
        ([TrainingPair((pair.conditions[0], wide), pair.target)], ShapeError, "condition: expected shape"),
    ]
    for pairs, error, message in bad:
        with pytest.raises(error, match=message):
            HeroTrainer(backbone, pairs, QUICK)
    HeroTrainer(backbone, [pair], QUICK).step()


# --- saving and resuming ----------------------------------------------------------------------------------------------


def sample(trainer: HeroTrainer) -> torch.Tensor:
    pictures = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    stage = HeroStage(trainer.backbone, trainer.lora, trainer.settings.kinds, RestoreSettings(2))
    return stage.restore(pictures[0], pictures[1], [0])


def test_resumed_at_any_step_it_equals_an_unbroken_run_to_the_bit(tmp_path):
    settings, pairs = replace(QUICK, batch=2, draws=2, crop=0.5, decay=True), make_pairs(3)
    unbroken = make_trainer(settings, pairs)
    losses = [unbroken.step() for _ in range(settings.total)]
    begun = make_trainer(settings, pairs)
    for done in range(settings.total):
        begun.save(tmp_path / f"{done}.pt")
        begun.step()
    for done in range(settings.total):
        resumed = make_trainer(settings, pairs)
        resumed.step()  # whatever came before is forgotten
        resumed.load(tmp_path / f"{done}.pt")
        assert resumed.done == done
        assert [resumed.step() for _ in range(done, settings.total)] == losses[done:]
        assert_equal(weights(resumed), weights(unbroken))
        assert torch.equal(sample(resumed), sample(unbroken))


def test_saving_and_sampling_do_not_disturb_the_run(tmp_path):
    quiet, disturbed = make_trainer(), make_trainer()
    for _ in range(3):
        quiet.step()
        disturbed.step()
        disturbed.save(tmp_path / "state.pt")
        sample(disturbed)
    assert_equal(weights(quiet), weights(disturbed))


def test_more_steps_than_before_are_allowed(tmp_path):
    make_trainer().save(tmp_path / "state.pt")
    longer = make_trainer(replace(QUICK, steps=9))
    longer.load(tmp_path / "state.pt")
    assert longer.settings.total == 9


def test_with_a_falling_learning_rate_the_number_of_steps_is_part_of_the_training(tmp_path):
    make_trainer(replace(QUICK, decay=True)).save(tmp_path / "state.pt")
    longer = make_trainer(replace(QUICK, decay=True, steps=9))
    with pytest.raises(InputError, match=r"steps \(5 before, 9 now\)"):
        longer.load(tmp_path / "state.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "zero-ref"}, r"mode \(explicit before, zero-ref now\)"),
        ({"rank": 8}, r"rank \(4 before, 8 now\)"),
        ({"alpha": 2.0}, r"alpha \(None before, 2.0 now\)"),
        ({"layers": ("q", "k")}, r"layers \(\[\] before, \['q', 'k'\] now\)"),
        ({"batch": 2}, r"batch \(1 before, 2 now\)"),
        ({"draws": 2}, r"draws \(1 before, 2 now\)"),
        ({"learning_rate": 1e-3}, r"learning_rate \(0.01 before, 0.001 now\)"),
        ({"checkpointing": True}, r"checkpointing \(False before, True now\)"),
        ({"seed": 5, "guidance_scale": 2.0}, r"guidance_scale \(1.0 before, 2.0 now\), seed \(0 before, 5 now\)"),
    ],
)
def test_the_state_of_another_training_is_refused_by_what_differs(tmp_path, change, message):
    make_trainer().save(tmp_path / "state.pt")
    other = make_trainer(replace(QUICK, **change))
    before = weights(other)
    with pytest.raises(InputError, match=f"state.pt: the state of another training: {message}"):
        other.load(tmp_path / "state.pt")
    assert other.done == 0
    assert_equal(weights(other), before)


def test_a_damaged_state_is_refused_and_changes_nothing(tmp_path):
    whole, path = tmp_path / "whole.pt", tmp_path / "state.pt"
    donor = make_trainer()
    donor.step()
    donor.save(whole)
    content = whole.read_bytes()
    trainer = make_trainer()
    before = weights(trainer)

    def refused() -> None:
        with pytest.raises(InputError, match=r"state\.pt: cannot be read \(\w+\); start again"):
            trainer.load(path)

    refused()  # missing
    for keep in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        refused()
    for other in ([1, 2], {"settings": {}}):
        torch.save(other, path)
        refused()
    assert trainer.done == 0
    assert_equal(weights(trainer), before)
    trainer.load(whole)
    assert trainer.done == 1


def test_a_failing_disk_keeps_the_former_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    trainer = make_trainer()
    trainer.save(path)
    before = path.read_bytes()

    def full(state: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Zero2HeroError, match=r"state\.pt: no space left"):
        trainer.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"] and path.read_bytes() == before


# --- what goes wrong --------------------------------------------------------------------------------------------------


def frozen(trainer: HeroTrainer) -> dict[str, torch.Tensor]:
    """Everything that a step changes, copied."""
    optimiser = trainer.optimiser.state_dict()["state"]
    parts = {f"{n} {name}": value.clone() for n, row in optimiser.items() for name, value in row.items()}
    return weights(trainer) | parts | {"random": trainer.generator.get_state(), "done": torch.tensor(trainer.done)}


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_gives_no_number_changes_nothing(what, value):
    trainer, unbroken = make_trainer(), make_trainer()
    for _ in range(2):
        trainer.step()
        unbroken.step()
    before = frozen(trainer)
    assert len(before) > 2 * len(weights(trainer))  # the optimiser's moments are among them
    target = trainer.pairs[0].target
    whole = target.clone()
    if what == "loss":
        target[0, 0, 0, 0] = value
    else:
        hook = trainer.lora.parameters()[1].register_hook(lambda gradient: gradient * value)
    with pytest.raises(
        Zero2HeroError, match=f"step 3: the {what} is not a number; begin again with a lower learning rate"
    ):
        trainer.step()
    assert_equal(frozen(trainer), before)
    if what == "loss":
        target.copy_(whole)
    else:
        hook.remove()
    assert [trainer.step() for _ in range(2)] == [unbroken.step() for _ in range(2)]
    assert_equal(weights(trainer), weights(unbroken))


def test_an_optimiser_whose_package_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    backbone = random_dit()
    with pytest.raises(InputError, match="adamw8bit: needs the package bitsandbytes; install it or choose adamw"):
        HeroTrainer(backbone, make_pairs(), replace(QUICK, optimiser="adamw8bit"))
    HeroLoRA(backbone, 1)  # no adapters were left behind


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "both"}, "mode: expected one of explicit, implicit, zero-ref, tgt-ref, got 'both'"),
        ({"optimiser": "sgd"}, "optimiser: expected one of adamw, adamw8bit, got 'sgd'"),
        ({"rank": 0}, "rank: expected a value from 1"),
        ({"alpha": 0.0}, "alpha: expected a number above 0, got 0.0"),
        ({"alpha": float("nan")}, "alpha: expected a number above 0, got nan"),
        ({"layers": ("q", "mlp")}, "layers: expected some of q, k, v, out, qkv_mlp, each once, got q, mlp"),
        ({"steps": 0}, "steps: expected a value from 1"),
        ({"batch": 0}, "batch: expected a value from 1"),
        ({"draws": 0}, "draws: expected a value from 1"),
        ({"crop": 0.05}, "crop: expected a value from 0.1 to 1"),
        ({"light": -1.0}, "light: expected a value from 0 to 10"),
        ({"learning_rate": -1e-4}, "learning rate: expected a value from 0 to 1"),
        ({"learning_rate": float("nan")}, "learning rate: expected a value from 0 to 1"),
        ({"weight_decay": 2.0}, "weight decay: expected a value from 0 to 1"),
        ({"clip_norm": -1.0}, "gradient clip: expected a value from 0"),
        ({"guidance_scale": -1.0}, "guidance: expected a value from 0"),
        ({"seed": -1}, "seed: expected a value from 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        HeroSettings(**settings)


def test_the_default_number_of_steps_takes_the_same_time_for_one_and_two_conditions():
    assert {mode: HeroSettings(mode=mode).total for mode in MODES} == {
        "explicit": 400,
        "implicit": 600,
        "zero-ref": 600,
        "tgt-ref": 600,
    }
    assert HeroSettings(steps=7).total == 7


def test_what_is_given_goes_before_the_models_advice_and_that_before_the_defaults():
    advice = {"rank": 16, "steps": 200, "num_inference_steps": 8}
    assert HeroSettings.suited(advice, steps=7, seed=3) == HeroSettings(rank=16, steps=7, seed=3)
    assert HeroSettings.suited({}) == HeroSettings()


def test_the_defaults_are_the_authors_but_for_the_rank():
    assert asdict(HeroSettings()) == {
        "mode": "explicit", "rank": 32, "alpha": None, "layers": (), "steps": None, "batch": 1, "draws": 1, "crop": 1.0,
        "light": 0.0, "shift": 0, "high_noise": 0.0, "learning_rate": 1e-4, "decay": False, "weight_decay": 1e-4,
        "clip_norm": 1.0, "guidance_scale": 1.0, "optimiser": "adamw", "checkpointing": False, "seed": 0,
    }  # fmt: skip
    assert (HeroSettings().total, HeroSettings(mode="tgt-ref").total, HeroSettings(steps=7).total) == (400, 600, 7)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("rank", 1, 4096),
        ("steps", 1, 1_000_000),
        ("batch", 1, 1024),
        ("draws", 1, 1024),
        ("crop", 0.1, 1),
        ("light", 0, 10),
        ("shift", 0, 64),
        ("high_noise", 0, 1),
        ("learning_rate", 0, 1),
        ("weight_decay", 0, 1),
        ("guidance_scale", 0, 100),
        ("seed", 0, 2**63 - 1),
    ],
)
def test_what_each_setting_may_be(name, least, most):
    for value in (least, most):
        assert getattr(HeroSettings(**{name: value}), name) == value
    step = 1 if isinstance(least, int) and isinstance(most, int) else 0.01
    for value in (least - step, most + step):
        with pytest.raises(InputError, match=rf"{name.replace('_scale', '').replace('_', ' ')}: expected"):
            HeroSettings(**{name: value})


def test_advised_steps_are_for_two_conditions():
    advice = {"steps": 200, "rank": 8, "num_inference_steps": 4}
    assert HeroSettings.suited(advice) == HeroSettings(steps=200, rank=8)
    assert HeroSettings.suited(advice, mode="tgt-ref") == HeroSettings(steps=300, rank=8, mode="tgt-ref")
    assert HeroSettings.suited(advice, mode="tgt-ref", steps=40, rank=2) == HeroSettings("tgt-ref", 2, steps=40)
    assert HeroSettings.suited({}, mode="implicit") == HeroSettings(mode="implicit")


def test_a_step_sees_the_whole_pair_or_a_random_part_of_the_asked_share():
    (pair,) = make_pairs(grid=(8, 12))
    whole = make_trainer(HeroSettings(rank=4), [pair])
    state = whole.generator.get_state()
    assert whole._view(pair) is pair and torch.equal(whole.generator.get_state(), state)
    half = make_trainer(HeroSettings(rank=4, crop=0.5), [pair])
    seen = set()
    for _ in range(200):
        view = half._view(pair)
        assert view.target.shape == (1, CHANNELS, 4, 6)
        cuts = {(y, x): (..., slice(y, y + 4), slice(x, x + 6)) for y in range(5) for x in range(7)}
        (place,) = (place for place, cut in cuts.items() if torch.equal(pair.target[cut], view.target))
        for full, part in zip(pair.conditions, view.conditions, strict=True):
            assert torch.equal(full[cuts[place]], part)
        seen.add(place)
    assert {y for y, _ in seen} == set(range(5)) and {x for _, x in seen} == set(range(7))
    assert half.settings.seen((8, 12)) == (4, 6) and HeroSettings(crop=0.1).seen((48, 96), 16) == (16, 16)
