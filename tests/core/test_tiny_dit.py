"""The tiny DiT: its recipe, its file, what it was taught, and Hero-Stage's measures on rendered clips."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from zero2hero_core.backbones.dit_restore import RestoreSettings
from zero2hero_core.checks import InputError
from zero2hero_core.cli import main
from zero2hero_core.hero_training import HeroSettings
from zero2hero_core.metrics import psnr
from zero2hero_core.tiny import evaluate_hero
from zero2hero_core.tiny.degrade import moved, sample_restore, worn
from zero2hero_core.tiny.dit import DIT_FILE, build_dit, dit_metadata, load_tiny_dit, save_dit
from zero2hero_core.tiny.dit_train import DiTRecipe, DiTTrainer, scaled_dit_recipe
from zero2hero_core.tiny.evaluate_hero import ClipMaterial, Study, run_hero
from zero2hero_core.tiny.model import RECOMMENDED, weights_folder
from zero2hero_core.tiny.pool import VIEWS, Pool
from zero2hero_core.tiny.scenes import Scene, split_seed

GRID = 8


@pytest.fixture
def pool() -> Pool:
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(GRID) + 0.5
    identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    latents = torch.randn(2, VIEWS, 8, GRID, GRID, generator=generator).half()
    visible = torch.ones(2, VIEWS, VIEWS, GRID, GRID, dtype=torch.bool)
    return Pool(latents, identity.expand(2, VIEWS, VIEWS, -1, -1, -1).half(), visible)


@pytest.fixture
def material() -> ClipMaterial:
    """A clip of three frames; its "Zero-Stage result" is the truth, blurred and with too much contrast."""
    scene = Scene(split_seed("test", 0), 16, 64)
    frames, truth = (torch.stack([scene.render(i, look)[0] for i in (0, 5, 10)]) for look in (0, 1))
    blurred = torch.nn.functional.interpolate(truth, scale_factor=0.125, mode="area")
    zero = torch.nn.functional.interpolate(0.5 + 1.5 * (blurred - 0.5), scale_factor=8.0, mode="bilinear").clamp(0, 1)
    masks = torch.stack([scene.render(i)[1] for i in (0, 5, 10)])
    names = ("zero", "zero_target", "cia", "pixel_swap")
    return ClipMaterial("test", {"identity": frames, "truth": truth} | dict.fromkeys(names, zero), masks)


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


def test_training_on_the_anchor_restores_frames_that_it_has_not_seen(material):
    """A smoke test of the effect (`zero2hero ablate` measures it): every frame gains, the anchor most."""
    backbone = load_tiny_dit()
    settings = HeroSettings.suited(backbone.recommended, steps=25, crop=1.0)
    result = run_hero(backbone, material, settings, RestoreSettings.suited(backbone.recommended), at_steps=(0,))
    worn_psnr = psnr(material.pictures["zero"], material.pictures["truth"])
    assert bool((result.psnr[25] > worn_psnr + 1).all())
    assert float(result.psnr[25].mean()) > float(result.psnr[0].mean()) + 1
    assert len(result.losses) == 25 and sum(result.losses[-5:]) < sum(result.losses[:5])


def test_a_study_keeps_what_it_measured(material, tmp_path: Path, monkeypatch):
    backbone = load_tiny_dit()
    monkeypatch.setattr(evaluate_hero, "cached_material", lambda *_, **__: material)
    settings = HeroSettings.suited(backbone.recommended, steps=2, crop=1.0, draws=1)
    restore = RestoreSettings(num_inference_steps=1)

    def study() -> Study:
        return Study(backbone, lambda: pytest.fail("no Zero-Stage needed"), tmp_path, settings, restore, "test", (0, 2))

    first = study()
    for variant in ("explicit", "implicit", "tgt-ref", "pixel swap"):
        first.measure(0, variant, settings)
    monkeypatch.setattr(evaluate_hero, "run_hero", lambda *_, **__: pytest.fail("measured already"))
    again = study()
    assert again.measure(0, "explicit", settings) == first.measure(0, "explicit", settings)
    rows = first.rows(["explicit", "implicit"], [0], [0])
    row = rows["explicit"]
    assert row["average"] == pytest.approx((row["anchor"] + row["last"]) / 2, abs=1e-4)
    assert row["others"] == pytest.approx(row["last"], abs=1e-4)
    baselines = first.baselines([0])
    expected = float(psnr(material.pictures["identity"][2:], material.pictures["truth"][2:]))
    assert baselines["identity"]["others"] == pytest.approx(expected, abs=1e-3)
    assert set(baselines) == {"identity", "pixel_swap", "zero", "cia", "flow"}


def test_ablate_writes_the_table(material, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_hero, "cached_material", lambda *_, **__: material)
    options = ["--clips", "1", "--seeds", "2", "--frames", "0", "2", "--train-steps", "2", "--sample-steps", "1"]
    assert main(["ablate", "--table", "4", "--out", str(tmp_path), *options]) == 0
    table = json.loads((tmp_path / "table4.json").read_text())
    assert list(table["rows"]) == [
        "pixel swap, half the steps",
        "Zero-Stage, half the steps",
        "pixel swap",
        "Zero-Stage",
    ]
    assert "flow" in capsys.readouterr().out
    assert main(["ablate", "--table", "3", "--out", str(tmp_path), "--modes", "magic"]) == 2
    assert "explicit" in capsys.readouterr().err


def test_kept_material_is_found_by_the_settings_of_zero_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.zeros(1, 3, 8, 8)
    made: list[str] = []

    def making(backbone: object, scene: object, name: str) -> evaluate_hero.ClipMaterial:
        made.append(name)
        return evaluate_hero.ClipMaterial(name, {"zero": pictures}, pictures[:, :1])

    monkeypatch.setattr(evaluate_hero, "make_material", making)
    kept = partial(evaluate_hero.cached_material, lambda: None, "test", 0, tmp_path, frames=2, size=32)
    kept(), kept()
    assert len(made) == 1
    monkeypatch.setitem(RECOMMENDED, "timestep", 52)  # another default is another material
    kept()
    assert len(made) == 2
