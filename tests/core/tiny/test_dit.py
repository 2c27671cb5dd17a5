"""The tiny DiT: its recipe, its file, and what it was taught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zero2hero_core.checks import InputError
from zero2hero_core.tiny.dit import DIT_FILE, build_dit, dit_metadata, load_tiny_dit, save_dit
from zero2hero_core.tiny.recipe.degrade import moved, sample_restore, worn
from zero2hero_core.tiny.recipe.dit import DiTRecipe, DiTTrainer, scaled_dit_recipe
from zero2hero_core.tiny.recipe.pool import VIEWS, Pool
from zero2hero_core.tiny.unet import weights_folder

GRID = 8


@pytest.fixture
def pool() -> Pool:
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(GRID) + 0.5
    identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    latents = torch.randn(2, VIEWS, 8, GRID, GRID, generator=generator).half()
    visible = torch.ones(2, VIEWS, VIEWS, GRID, GRID, dtype=torch.bool)
    return Pool(latents, identity.expand(2, VIEWS, VIEWS, -1, -1, -1).half(), visible)


def test_bundled_weights_fit_into_25_megabytes():
    assert sum(file.stat().st_size for file in weights_folder().iterdir()) <= 25e6


def test_weights_tell_the_recipe_that_made_them():
    assert json.loads(dit_metadata()["recipe"])["phases"] and dit_metadata()["curve"].count("\n") > 10


def test_missing_damaged_and_foreign_weights_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="tiny train --part dit"):
        load_tiny_dit(tmp_path)
    whole = (weights_folder() / DIT_FILE).read_bytes()
    (tmp_path / DIT_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=DIT_FILE):
        load_tiny_dit(tmp_path)
    torch.manual_seed(0)
    save_dit(tmp_path, torch.nn.Linear(2, 2), {})
    with pytest.raises(InputError, match=DIT_FILE):
        load_tiny_dit(tmp_path)


def test_a_fresh_dit_predicts_nothing():
    torch.manual_seed(0)
    assert all(not bool(p.any()) for p in build_dit().proj_out.parameters())


def test_worn_pictures_stay_near_the_wanted_look(pool):
    generator = torch.Generator().manual_seed(0)
    batch = sample_restore(pool, pool.latents + 3, 32, 4, generator)
    assert batch.wanted.shape == batch.worn.shape == batch.structure.shape == (32, 8, 4, 4)
    far = ((batch.structure - batch.wanted).abs() - 3).abs().max()
    assert float(far) < 0.01  # the same place of the same frame in the other look
    near = (batch.worn - batch.wanted).pow(2).mean()
    assert 0 < float(near) < float((batch.structure - batch.wanted).pow(2).mean())
    smooth = torch.zeros(1, 8, GRID, GRID)
    assert moved(smooth, pool.coords[:1, 0, 0].float(), generator).shape == smooth.shape
    assert worn(smooth, smooth, generator).shape == smooth.shape


def test_training_the_dit_resumes_to_the_bit(pool, tmp_path: Path):
    recipe = replace(scaled_dit_recipe(clips=2, scale=0.001), bfloat16=False, phases=((2, 2, 4), (2, 2, 4)))

    def trainer() -> DiTTrainer:
        return DiTTrainer(recipe, pool, pool.latents)

    whole, first, second = trainer(), trainer(), trainer()
    losses = [whole.step() for _ in range(4)]
    for _ in range(2):
        first.step()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    assert [second.step() for _ in range(2)] == losses[2:]
    for name, tensor in whole.average.items():
        assert torch.equal(second.average[name], tensor)
    other = DiTTrainer(replace(recipe, seed=1), pool, pool.latents)
    with pytest.raises(InputError, match="another recipe"):
        other.load(tmp_path / "state.pt")


def test_the_recipe_scales_all_its_steps():
    assert scaled_dit_recipe(scale=2).total == 2 * DiTRecipe().total
    rates = [DiTRecipe().rate(step) for step in range(DiTRecipe().total)]
    assert max(rates) == DiTRecipe().learning_rate and rates[-1] < 1e-3 * max(rates) and rates[0] < rates[10]
