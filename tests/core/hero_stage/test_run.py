"""A training in a folder: what it leaves there, early stop, going on after any interruption, NaN."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tiny_models import random_dit
from zero2hero_core.checks import InputError, Zero2HeroError
from zero2hero_core.hero_stage.lora.file import HeroMetadata, load_lora, read_metadata
from zero2hero_core.hero_stage.training.log import PLOT_SIZE, TrainingLog
from zero2hero_core.hero_stage.training.pairs import TrainingPair
from zero2hero_core.hero_stage.training.run import LORA, PLOT, SAMPLES, STATE, Evaluation, RunSettings, TrainingRun
from zero2hero_core.hero_stage.training.trainer import HeroSettings, HeroTrainer

CHANNELS, GRID = 32, (2, 2)
SIDE = 16
Stop = Callable[[], bool]


def make_run(
    folder: Path,
    evaluation: Evaluation | None = None,
    *,
    steps: int = 5,
    save_every: int = 2,
    evaluate_every: int = 2,
    patience: int = 0,
    decay: bool = False,
    stop: Stop = lambda: False,
    progress: Any = None,
) -> TrainingRun:
    latents = torch.randn(3, 3, 1, CHANNELS, *GRID, generator=torch.Generator().manual_seed(1))
    pairs = [TrainingPair((row[0], row[1]), row[2]) for row in latents]
    chosen = HeroSettings(rank=4, learning_rate=1e-2, steps=steps, decay=decay)
    trainer = HeroTrainer(random_dit(), pairs, chosen)
    settings = RunSettings(save_every, evaluate_every, patience)
    metadata = HeroMetadata.of(trainer.lora, mode="explicit")
    return TrainingRun(trainer, folder, metadata, evaluation, settings, stop=stop, progress=progress)


def grey(value: float) -> torch.Tensor:
    return torch.full((3, SIDE, SIDE), value)


def evaluation(values: Callable[[], float] = lambda: 0.5, **changes: Any) -> Evaluation:
    """Frames that are restored as an even grey, all of the same value; the reference is 0.4."""

    def restore(indices: list[int]) -> torch.Tensor:
        return torch.stack([grey(values()) for _ in indices])

    named = {"anchor": (2, grey(0.4)), "truths": {}, "zero": {}, "samples": (7,)} | changes
    return Evaluation(restore, **named)


def rows(folder: Path) -> list[dict[str, float]]:
    """The log without times."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in TrainingLog(folder).rows()]


def lora_bits(folder: Path) -> bytes:
    return (folder / LORA).read_bytes()


def state_bits(folder: Path) -> dict[str, Any]:
    """What the checkpoint holds, flat."""

    def flat(value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}").items()}
        return {name: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}

    return flat(torch.load(folder / STATE, weights_only=True), "")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def interrupt_at(trainer: HeroTrainer, step: int, *, after: bool = False) -> None:
    """Ctrl-C, the second one, before (or after) the update of this step."""
    original = trainer.step

    def interrupted() -> float:
        if trainer.done + 1 < step:
            return original()
        if after:
            original()
        raise KeyboardInterrupt

    trainer.step = interrupted  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take most of a tiny run; only the unbroken run, which comes before, really draws them."""
    monkeypatch.setattr(TrainingLog, "plot", lambda self, path: Path(path).touch())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    make_run(folder, evaluation()).run()
    return folder


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_leaves_checkpoint_lora_log_plot_and_samples(unbroken):
    samples = [f"{SAMPLES}/step_{step:06d}.png" for step in (0, 2, 4, 5)]
    assert names(unbroken) == sorted([STATE, LORA, PLOT, "log.csv", *samples])
    log = rows(unbroken)
    assert [row["step"] for row in log] == [0, 1, 2, 3, 4, 5]
    assert "loss" not in log[0] and all(row["loss"] > 0 for row in log[1:])
    assert [row["step"] for row in log if "psnr_anchor" in row] == [0, 2, 4, 5]
    assert {row["learning_rate"] for row in log} == {0.01}
    seconds = [row["seconds"] for row in TrainingLog(unbroken).rows()]
    assert seconds[0] == 0 and seconds == sorted(seconds) and seconds[-1] > 0
    with Image.open(unbroken / PLOT) as plot, Image.open(unbroken / samples[-1]) as sample:
        assert plot.size == PLOT_SIZE
        assert sample.size == (2 * SIDE, SIDE)  # anchor and shown frame side by side
        assert sample.getpixel((0, 0)) == (128, 128, 128)
    metadata = read_metadata(unbroken / LORA)
    assert metadata is not None and (metadata.step, metadata.mode, metadata.count) == (5, "explicit", 2)


def test_the_lora_file_is_what_was_trained(unbroken, tmp_path):
    run = make_run(tmp_path)
    run.run()
    assert lora_bits(tmp_path) == lora_bits(unbroken)  # evaluations do not disturb the training either
    loaded, _ = load_lora(unbroken / LORA, random_dit())
    trained = run.trainer.lora.state_dict()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in loaded.state_dict().items())


def test_a_run_without_evaluation_has_log_and_plot(tmp_path):
    make_run(tmp_path, steps=2).run()
    assert names(tmp_path) == sorted([STATE, LORA, PLOT, "log.csv"])
    assert [sorted(row) for row in rows(tmp_path)] == [["learning_rate", "loss", "step"]] * 2


def test_psnr_is_measured_on_anchor_truth_and_zero_stage(tmp_path):
    truths = {3: grey(0.4), 7: grey(0.51)}  # 20 dB and 40 dB from the restored 0.5
    zero = {3: grey(0.3), 7: grey(0.61)}  # 20 dB each
    make_run(tmp_path, evaluation(truths=truths, zero=zero), steps=1).run()
    for row in (rows(tmp_path)[0], rows(tmp_path)[-1]):
        assert row["psnr_anchor"] == pytest.approx(20, abs=1e-3)
        assert row["psnr_truth"] == pytest.approx(30, abs=1e-3)
        assert row["psnr_zero"] == pytest.approx(20, abs=1e-3)
    with Image.open(tmp_path / SAMPLES / "step_000001.png") as sample:
        assert sample.size == (3 * SIDE, SIDE)  # frames 2, 3 and 7


def test_truth_needs_no_zero_stage_frames(tmp_path):
    make_run(tmp_path, evaluation(truths={3: grey(0.4)}), steps=1).run()
    assert "psnr_truth" in rows(tmp_path)[-1] and "psnr_zero" not in rows(tmp_path)[-1]


def test_an_evaluation_of_another_size_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"evaluation: expected pictures of \(3, 16, 16\), got \(3, 8, 8\)"):
        make_run(tmp_path, evaluation(anchor=(2, torch.zeros(3, 8, 8)))).run()


def test_the_log_has_the_learning_rate_of_each_step(tmp_path):
    make_run(tmp_path, decay=True, steps=4).run()
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    # half a cosine from 0.01 to 0 in 4 steps: (1 + cos(n pi / 4)) / 2
    assert rates == pytest.approx([0.01, 0.00853553391, 0.005, 0.00146446609])


def test_progress_is_told_after_every_step(tmp_path):
    told: list[tuple[int, float]] = []
    make_run(tmp_path, steps=3, progress=lambda step, loss: told.append((step, loss))).run()
    assert [step for step, _ in told] == [1, 2, 3]
    assert [loss for _, loss in told] == pytest.approx([row["loss"] for row in rows(tmp_path)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"save_every": 0}, "save every: expected a value from 1"),
        ({"evaluate_every": 0}, "evaluate every: expected a value from 1"),
        ({"patience": -1}, "patience: expected a value from 0"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RunSettings(**settings)


# --- ending early -----------------------------------------------------------------------------------------------------


def falling() -> Callable[[], float]:
    """Restored greys that come nearer to the reference (0.4) for two evaluations, start included, then no more."""
    values = iter([0.9, 0.9, 0.7, 0.7, *[0.6] * 100])
    return lambda: next(values)


def test_a_run_stops_early_and_stays_stopped(tmp_path):
    run = make_run(tmp_path, evaluation(falling()), steps=9, evaluate_every=1, save_every=100, patience=2)
    run.run()
    # Steps 1 and 2 improve, 3 and 4 do not.
    assert run.stopped_early and run.trainer.done == run.saved_step == 4
    metadata = read_metadata(tmp_path / LORA)
    assert metadata is not None and metadata.step == 4
    again = make_run(tmp_path, evaluation(), steps=9, evaluate_every=1, patience=2)
    assert again.resume() == 4 and again.stopped_early
    again.run()
    assert again.trainer.done == 4 and [row["step"] for row in rows(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_resumed_run_stops_early_where_the_unbroken_one_does(tmp_path):
    values = falling()
    first = make_run(tmp_path, evaluation(values), steps=9, evaluate_every=1, save_every=1, patience=2)
    interrupt_at(first.trainer, 4)  # one evaluation without improvement lies behind
    with pytest.raises(Zero2HeroError):
        first.run()
    second = make_run(tmp_path, evaluation(values), steps=9, evaluate_every=1, save_every=1, patience=2)
    assert second.resume() == 3 and not second.stopped_early
    second.run()
    assert second.stopped_early and second.trainer.done == 4


def test_without_patience_a_run_goes_to_its_end(tmp_path):
    run = make_run(tmp_path, evaluation(), steps=4, evaluate_every=1)
    run.run()
    assert run.trainer.done == 4 and not run.stopped_early


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 4, 5])
def test_stopped_at_any_step_it_saves_and_goes_on_as_if_unbroken(tmp_path, unbroken, step):
    run = make_run(tmp_path, evaluation(), stop=lambda: run.trainer.done >= step)
    if step == 5:  # nothing is left to do: not stopped
        run.run()
        assert lora_bits(tmp_path) == lora_bits(unbroken)
        return
    with pytest.raises(Zero2HeroError, match=f"stopped at step {step} of 5; .*step {step} .*do the same with resume"):
        run.run()
    metadata = read_metadata(tmp_path / LORA)
    assert metadata is not None and metadata.step == step
    resumed = make_run(tmp_path, evaluation())
    assert resumed.resume() == step
    resumed.run()
    assert lora_bits(tmp_path) == lora_bits(unbroken) and rows(tmp_path) == rows(unbroken)
    assert names(tmp_path) == names(unbroken)


@pytest.mark.parametrize(("step", "after"), [(1, False), (2, True), (4, False), (5, True)])
def test_interrupted_within_any_step_it_goes_on_from_the_checkpoint(tmp_path, unbroken, step, after):
    run = make_run(tmp_path, evaluation())
    interrupt_at(run.trainer, step, after=after)
    saved = (step - 1) // 2 * 2
    kept = f"checkpoint of step {saved} and its LoRA are kept in" if saved else "nothing has been saved yet"
    with pytest.raises(Zero2HeroError, match=f"interrupted; .*{kept}.*with resume"):
        run.run()
    assert rows(tmp_path)[-1]["step"] == step - 1
    resumed = make_run(tmp_path, evaluation())
    assert resumed.resume() == saved
    assert all(row["step"] <= saved for row in rows(tmp_path))
    resumed.run()
    assert lora_bits(tmp_path) == lora_bits(unbroken) and rows(tmp_path) == rows(unbroken)
    assert state_bits(tmp_path) == state_bits(unbroken)
    assert names(tmp_path) == names(unbroken)


def test_training_time_adds_up_over_resumed_runs(tmp_path):
    run = make_run(tmp_path, stop=lambda: run.trainer.done >= 2)
    with pytest.raises(Zero2HeroError):
        run.run()
    resumed = make_run(tmp_path)
    resumed.resume()
    resumed.run()
    seconds = [row["seconds"] for row in TrainingLog(tmp_path).rows()]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(run.seconds["train"] + resumed.seconds["train"])


def test_a_finished_run_can_be_made_longer(tmp_path, unbroken):
    make_run(tmp_path, evaluation(), steps=3).run()
    longer = make_run(tmp_path, evaluation())
    assert longer.resume() == 3
    longer.run()
    assert lora_bits(tmp_path) == lora_bits(unbroken)


def test_resuming_where_nothing_is_begins(tmp_path, unbroken):
    run = make_run(tmp_path / "new", evaluation())
    assert run.resume() == 0
    run.run()
    assert lora_bits(tmp_path / "new") == lora_bits(unbroken)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_two_trainings_do_not_share_a_folder(tmp_path):
    said: list[str] = []
    second = make_run(tmp_path)

    def elsewhere() -> None:
        with pytest.raises(InputError) as caught:
            second.run()
        said.append(str(caught.value))

    def begin(step: int, loss: float) -> None:
        if step == 1:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    (tmp_path / ".state.0123abcd.partial.pt").write_bytes(b"left by a run that died")
    make_run(tmp_path, steps=2, progress=begin).run()
    assert "in use by another job of this process" in said[0] and second.trainer.done == 0
    assert names(tmp_path) == sorted([LORA, PLOT, STATE, "log.csv"])


@pytest.mark.parametrize("step", [1, 4])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, step):
    run = make_run(tmp_path, evaluation())
    original, saved = run.trainer.step, {1: -1, 4: 2}[step]

    def poisoned() -> float:
        if run.trainer.done + 1 == step:
            for pair in run.trainer.pairs:
                pair.conditions[0].fill_(float("nan"))
        return original()

    run.trainer.step = poisoned  # type: ignore[method-assign]
    kept = (
        "nothing has been saved yet" if saved < 0 else f"the checkpoint of step 2 and its LoRA are kept in {tmp_path}"
    )
    with pytest.raises(Zero2HeroError, match=f"step {step}: the loss is not a number; .*; {kept}") as caught:
        run.run()
    assert not isinstance(caught.value, InputError)  # the work failed, not the input
    assert rows(tmp_path)[-1]["step"] == step - 1
    assert (tmp_path / STATE).exists() == (tmp_path / LORA).exists() == (saved > 0)
    if saved > 0:
        metadata = read_metadata(tmp_path / LORA)
        assert metadata is not None and metadata.step == 2
        resumed = make_run(tmp_path, evaluation())
        assert resumed.resume() == 2
        assert all(bool(torch.isfinite(t).all()) for t in resumed.trainer.lora.state_dict().values())


def test_restored_pictures_that_are_no_numbers_stop_the_run(tmp_path):
    values = iter([0.5, 0.5, 0.5, 0.5, float("nan"), 0.5])
    run = make_run(tmp_path, evaluation(lambda: next(values)))
    with pytest.raises(Zero2HeroError, match="step 4: the restored pictures .* no numbers; the checkpoint of step 2"):
        run.run()
    assert f"{SAMPLES}/step_000004.png" not in names(tmp_path)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    run = make_run(tmp_path, steps=2)
    run.run()
    before = {name: (tmp_path / name).read_bytes() for name in (STATE, LORA)}
    with torch.no_grad():
        run.trainer.lora.parameters()[0][0, 0] = float("inf")
    with pytest.raises(Zero2HeroError, match="holds NaN or infinity"):
        run.save()
    assert {name: (tmp_path / name).read_bytes() for name in (STATE, LORA)} == before


def test_a_run_makes_its_folder_and_those_above(tmp_path):
    make_run(tmp_path / "a" / "b", steps=1).run()
    assert (tmp_path / "a" / "b" / LORA).is_file()
    make_run(tmp_path / "c", steps=1).run()


def test_frames_with_truth_decide_when_to_stop_not_the_anchor(tmp_path):
    levels = iter([0.50, 0.49, 0.48, 0.47, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41])  # towards the anchor, off the truth
    held: list[float] = []

    def restore(indices: list[int]) -> torch.Tensor:
        held.append(next(levels))
        return torch.stack([grey(held[-1]) for _ in indices])

    asked = Evaluation(restore, (2, grey(0.4)), {3: grey(0.9)}, {})
    run = make_run(tmp_path, asked, steps=9, evaluate_every=1, save_every=100, patience=2)
    run.run()
    shown = [(row["psnr_anchor"], row["psnr_truth"]) for row in rows(tmp_path) if "psnr_truth" in row]
    assert shown == sorted(shown) and [truth for _, truth in shown] == sorted((t for _, t in shown), reverse=True)
    # The start is not judged, the first step is the best, two more are not better.
    assert run.stopped_early and run.trainer.done == 3 and len(held) >= 4
    assert run.seconds["evaluate"] > 0 and run.seconds["train"] > 0
