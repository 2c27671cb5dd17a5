"""The bundled models do what they are there for, and the recipe resumes to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zero2hero_core.checks import InputError
from zero2hero_core.evaluation.bundled import summarise
from zero2hero_core.evaluation.quality.rendered import evaluate_clip, rgb_matches
from zero2hero_core.metrics.psnr import psnr
from zero2hero_core.tiny.autoencoder import fit_patch_autoencoder
from zero2hero_core.tiny.recipe.pairs import (
    PairAttention,
    PairBatch,
    bilinear_weights,
    coarsen,
    contrastive_loss,
    sample_pairs,
)
from zero2hero_core.tiny.recipe.pool import Pool, build_pool, scene_pictures
from zero2hero_core.tiny.recipe.unet import Recipe, Trainer, scaled_recipe, smooth_offset, train
from zero2hero_core.tiny.scenes.scene import Scene, split_seed
from zero2hero_core.tiny.unet import load_tiny, weights_folder
from zero2hero_core.zero_stage.stage import ZeroStageSettings


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool("train", 2, fit_patch_autoencoder(scene_pictures("train", 12, 64)), 64, workers=1)


def test_bundled_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in weights_folder().glob("*.safetensors")) <= 25e6


def test_bundled_autoencoder_on_unseen_scenes() -> None:
    pictures = (scene_pictures("test", 6, 256) + 1) / 2
    backbone = load_tiny()
    assert float(psnr(backbone.decode(backbone.encode(pictures)), pictures).mean()) >= 29


def test_bundled_models_on_one_unseen_clip() -> None:
    """A smoke test of the measures (`zero2hero tiny evaluate` measures twenty clips)."""
    scene = Scene(split_seed("test", 0), 16, 256)
    settings = ZeroStageSettings(num_inference_steps=10, ensemble=4)
    result = evaluate_clip(load_tiny(), scene, (0, 5), settings=settings)
    row = result.row()
    assert row["pck.features"] > row["pck.rgb"] > 0 and row["pck.features"] > row["pck.identity"]
    assert row["psnr.zero"] > row["psnr.cia"]
    assert row["psnr.zero"] > row["psnr.identity"]
    assert len(result.psnr["zero"]) == 1 and row["pck.identity"] < 1  # the anchor does not count
    same = result.matches[0].finest.indices[:, 0].long()
    assert torch.equal(same, torch.arange(32 * 32))  # the anchor matches itself, noise and all


def test_missing_or_damaged_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny train"):
        load_tiny(tmp_path)
    for name in ("tiny_unet.safetensors", "tiny_autoencoder.safetensors"):
        whole = (weights_folder() / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read"):
        load_tiny(tmp_path)
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "tiny_unet.safetensors")  # whole, but another model
    with pytest.raises(InputError, match="cannot read"):
        load_tiny(tmp_path)


def test_pool_holds_true_matches(pool: Pool) -> None:
    clips, views, channels, grid, _ = pool.latents.shape
    assert (clips, views, channels, grid) == (2, 4, 8, 8)
    identity = pool.coords[0, 1, 1].float()
    assert float((identity[3, 5] - torch.tensor([5.5, 3.5])).abs().max()) < 0.01
    assert bool(pool.visible[:, range(4), range(4)].all())


def test_recipe_resumes_to_the_same_weights(pool: Pool, tmp_path: Path) -> None:
    recipe = Recipe(phases=((2, 2, 8), (2, 1, 8)), warmup=1, offset_from=1)
    whole = Trainer(recipe, pool)
    for _ in range(4):
        whole.step()
    broken = Trainer(recipe, pool)
    broken.step()
    broken.save(tmp_path / "state.pt")
    resumed = Trainer(recipe, pool)
    resumed.load(tmp_path / "state.pt")
    for _ in range(3):
        losses = resumed.step()
    assert set(losses) == {"cross_mse"} and resumed.done == 4
    for one, other in ((whole.average, resumed.average), (whole.model.state_dict(), resumed.model.state_dict())):
        assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = Trainer(recipe, pool).model.state_dict()
    assert not torch.equal(fresh["conv_in.weight"], whole.model.state_dict()["conv_in.weight"])


def test_train_writes_weights_that_load(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = fit_patch_autoencoder(scene_pictures("train", 12, 64))
    monkeypatch.setattr("zero2hero_core.tiny.recipe.unet.fit_autoencoder", lambda size: autoencoder)
    monkeypatch.setattr("zero2hero_core.tiny.recipe.unet.build_pool", lambda *_, **__: pool)
    lines: list[str] = []
    recipe = Recipe(clips=2, size=64, phases=((2, 1, 8),), warmup=1)
    train(recipe, tmp_path / "work", tmp_path / "weights", every=1, log=lines.append)
    assert load_tiny(tmp_path / "weights").name == "tiny"
    assert len((tmp_path / "work" / "curve.jsonl").read_text().splitlines()) == 2 == len(lines)
    (tmp_path / "weights" / "tiny_unet.safetensors").unlink()
    train(recipe, tmp_path / "work", tmp_path / "weights", every=1, log=lines.append)
    assert lines[-1] == "resumed at step 2" and load_tiny(tmp_path / "weights").name == "tiny"
    with pytest.raises(InputError, match="another recipe"):
        train(Recipe(clips=2, size=64, phases=((3, 1, 8),), warmup=1), tmp_path / "work", tmp_path / "weights")


def test_scaled_recipe_and_its_rates() -> None:
    recipe = scaled_recipe(seed=3, clips=7, scale=0.5)
    assert recipe.total == sum(int(steps * 0.5) for steps, _, _ in Recipe.phases) and recipe.clips == 7
    assert recipe.rate(0) < recipe.rate(recipe.warmup) == recipe.learning_rate
    assert recipe.rate(recipe.total) == pytest.approx(0, abs=1e-9)
    assert Recipe(contrast=((0, 1.0), (2, 3.0))).contrast_weight(1) == 1.0
    assert Recipe(contrast=((0, 1.0), (2, 3.0))).contrast_weight(2) == 3.0
    assert recipe.phase(0) == Recipe.phases[0][1:] and recipe.phase(recipe.total - 1) == Recipe.phases[-1][1:]


def batch_of(coords: torch.Tensor) -> PairBatch:
    n, grid = coords.shape[:2]
    return PairBatch(torch.zeros(2 * n, 1, grid, grid), coords, torch.ones(n, grid, grid, dtype=torch.bool))


def grid_coords(grid: int) -> torch.Tensor:
    axis = torch.arange(grid) + 0.5
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)[None]


def test_bilinear_weights_by_hand() -> None:
    coords = grid_coords(4)
    assert torch.equal(bilinear_weights(coords)[0], torch.eye(16))
    coords[0, 0, 0] = torch.tensor([1.0, 0.5])  # half way between the first two cells of the first row
    assert bilinear_weights(coords)[0, 0, :3].tolist() == [0.5, 0.5, 0.0]


def test_contrastive_loss_prefers_the_truth() -> None:
    batch = batch_of(grid_coords(4))
    features = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = torch.ones(1, dtype=torch.bool)
    right = contrastive_loss(torch.cat([features, features]), batch, rows)
    wrong = contrastive_loss(torch.cat([features, features.flip(3)]), batch, rows)
    assert float(right) < 0.1 < float(wrong)
    assert float(contrastive_loss(torch.cat([features, features]), batch, ~rows)) == 0.0


def test_pair_attention_reads_the_match() -> None:
    coords = grid_coords(8).flip(2)  # a mirrored target
    batch = batch_of(coords)
    value = torch.randn(2, 2, 64, 4, generator=torch.Generator().manual_seed(1))
    out = PairAttention(batch)(9, torch.zeros_like(value), torch.zeros_like(value), value)
    mirrored = value[0].view(2, 8, 8, 4).flip(2).reshape(2, 64, 4)
    torch.testing.assert_close(out[1], mirrored)
    coarse, visible = coarsen(batch, 4)
    assert coarse.shape == (1, 2, 2, 2) and bool(visible.all())
    assert coarse[0, 0, 0].tolist() == [1.5, 0.5]


def test_sampled_pairs_are_aligned(pool: Pool) -> None:
    batch = sample_pairs(pool, 6, 4, torch.Generator().manual_seed(0))
    assert batch.latents.shape == (12, 8, 4, 4)
    inside = ((batch.coords >= 0) & (batch.coords < 4)).all(-1)
    assert not bool((batch.visible & ~inside).any()) and float(batch.visible.float().mean()) > 0.2


def test_smooth_offset_is_smooth_and_random() -> None:
    noise = torch.zeros(8, 2, 32, 32)
    offset = smooth_offset(noise, torch.Generator().manual_seed(0))
    steps = (offset[..., 1:] - offset[..., :-1]).std()
    assert 0.2 < float(offset.std()) < 1.5 and float(steps) < 0.4 * float(offset.std())
    assert float(offset.flatten(1).std(1).max() / offset.flatten(1).std(1).min()) > 2


def test_rgb_matches_find_a_shift() -> None:
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2))
    coords = rgb_matches(picture.roll(8, dims=2), picture, 8, 1)
    assert coords[3, 4].tolist() == pytest.approx([3.5 / 8, 3.5 / 8])


def test_summary() -> None:
    summary = summarise([{"clip": 0.0, "psnr.zero": 1.0}, {"clip": 1.0, "psnr.zero": 3.0}])
    assert summary == {"psnr.zero": {"mean": 2.0, "std": pytest.approx(2**0.5), "min": 1.0}}
