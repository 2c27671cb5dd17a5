"""Nothing that is read is replaced or removed, and older results go only when the new ones are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zero2hero_core.checks import InputError, setting
from zero2hero_core.cli import doctor as cli_doctor
from zero2hero_core.cli.main import build_parser, main
from zero2hero_core.files import guard as file_guard
from zero2hero_core.files.guard import Reading, Results, check_apart, content, final_path, remove_leftovers, staged
from zero2hero_core.files.tensor_file import write_tensors
from zero2hero_core.hero_stage.training.log import TrainingLog
from zero2hero_core.jobs.folder import FILES, PICTURES, TREES, ZERO_FOLDERS, readings
from zero2hero_core.video.writer import VideoWriter, write_image

OURS = Results(("edited.mp4", "report.json"), (("frames", r"frame_\d{6}\.png"),))


def files_in(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Results of an earlier run, and files of the user's among them."""
    out = tmp_path / "v1"
    write(out, edited_dot_mp4="old", report_dot_json="old", frames__frame_000000_dot_png="old")
    write(out, frames__frame_000007_dot_png="old", frames__mine_dot_png="mine", notes_dot_txt="mine")
    return out


NEEDED = ["--anchor", "0", "--tiny", "--overwrite"]
REFERENCE = ["--reference", "{tmp}/edit.png"]
COMMANDS = {
    "zero": ["zero", *NEEDED, *REFERENCE],
    "edit": ["edit", *NEEDED, *REFERENCE],
    "train": ["hero", "train", *NEEDED, *REFERENCE, "--zero", "{tmp}/zero"],
    "restore": ["hero", "restore", "--tiny", "--overwrite", "--zero", "{tmp}/zero", "--lora", "{tmp}/lora.safetensors"],
    "correspond": ["correspond", *NEEDED],
}


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("zero", ["--video", "{out}/edited.mp4"], "--video {out}/edited.mp4: expected what this run does not replace"),
        ("zero", ["--video", "{out}/frames"], "one of the results in --out {out}"),
        ("zero", ["--video", "{out}/frames/*.png"], "one of the results in --out {out}"),
        ("zero", ["--video", "{tmp}/symlink.mp4"], "{out}/edited.mp4 is one of the results"),
        ("zero", ["--video", "{tmp}/hard.mp4"], "{out}/edited.mp4 is one of the results"),
        ("zero", ["--video", "{tmp}/linked/edited.mp4"], "is one of the results"),
        ("zero", ["--video", "{out}/../v1/frames/../edited.mp4"], "is one of the results"),
        ("zero", ["--video", "{tmp}/clip.mp4", "--mask", "{out}/frames"], "--mask {out}/frames"),
        ("zero", ["--video", "{tmp}/clip.mp4", "--mask", "{tmp}/bare/frames"], "where this run writes pictures"),
        ("zero", ["--video", "{tmp}/clip.mp4", "--reference", "{out}/frames/frame_000000.png"], "--reference"),
        ("edit", ["--video", "{out}/edited.mp4"], "--video"),
        (
            "edit",
            ["--video", "{tmp}/clip.mp4", "--reference", "{out}/zero/frames/frame_000000.png"],
            "{out}/zero/frames/frame_000000.png is one of the results",
        ),
        ("train", ["--video", "{tmp}/clip.mp4", "--zero", "{out}", "--truth", "{out}/samples"], "--truth"),
        ("train", ["--video", "{tmp}/clip.mp4", "--also", "2={out}/training.png"], "--also {out}/training.png"),
        ("restore", ["--video", "{tmp}/clip.mp4", "--zero", "{out}"], "--zero {out}: expected what this run"),
        ("restore", ["--video", "{out}/edited.mp4"], "--video {out}/edited.mp4"),
        ("correspond", ["--video", "{out}"], "where this run writes pictures"),
    ],
)
def test_what_is_read_is_no_result(command, options, message, earlier, tmp_path, capsys):
    write(
        tmp_path, clip_dot_mp4="x", edit_dot_png="x", lora_dot_safetensors="x", zero__frames__frame_000000_dot_png="x"
    )
    write(earlier, zero__frames__frame_000000_dot_png="x", samples__step_000000_dot_png="x", training_dot_png="x")
    (tmp_path / "symlink.mp4").symlink_to(earlier / "edited.mp4")
    os.link(earlier / "edited.mp4", tmp_path / "hard.mp4")
    (tmp_path / "linked").symlink_to(earlier)
    write(tmp_path, bare__frames__1_dot_png="x")
    places = {"out": earlier, "tmp": tmp_path}
    if "bare" in str(options):  # pictures of other names, beside which frames would be put
        places["out"] = tmp_path / "bare"
    before = files_in(tmp_path)
    words = [*COMMANDS[command], "--out", "{out}", *options]
    assert main([word.format(**places) for word in words]) == 2
    line = capsys.readouterr().err
    assert message.format(**places) in line and "choose another --out" in line
    assert files_in(tmp_path) == before


def test_a_task_is_not_made_of_itself(tmp_path):
    write(tmp_path, data__dog__content__1_dot_png="x")
    reading = Reading("--video", "x", (tmp_path / "data/dog/content/1.png",), (tmp_path / "data/dog/content",))
    with pytest.raises(InputError, match="--video x: lies in .*dog, which this run replaces"):
        check_apart(tmp_path / "data", Results(folders=("dog",)), [reading])
    check_apart(tmp_path / "data", Results(folders=("cat",)), [reading])


def test_other_files_in_the_folder_may_be_read(earlier):
    mine = Reading("--video", "notes", (earlier / "notes.txt",), (earlier,))
    check_apart(earlier, OURS, [mine, Reading("--mask", "none", (earlier / "none.png",))])


def test_a_file_system_that_numbers_no_files_is_compared_by_paths(earlier, tmp_path, monkeypatch):
    (tmp_path / "linked").symlink_to(earlier)
    numbers = file_guard._numbers
    monkeypatch.setattr(file_guard, "_numbers", lambda path: (numbers(path)[0], 0))
    with pytest.raises(InputError, match="is one of the results"):
        check_apart(earlier, OURS, [Reading("--video", "x", (tmp_path / "linked" / "edited.mp4",))])


def test_every_option_that_may_name_a_file_is_known(tmp_path):
    """Who adds an option says here whether it names something that is read."""
    known = {*PICTURES, *ZERO_FOLDERS, *FILES, *TREES, "also", "anchor"}  # --anchor fills `reference` and `also`
    written = {"out", "work", "json", "video_name", "pictures"}
    words = {
        "device",
        "dtype",
        "name",
        "appearance",
        "hero_prompt",
        "prompt",
        "negative",
        "size",
        "layers",
        "modes",
        "lora_layers",
    }
    words |= {"negative", "methods", "tables", "rows", "k", "version", "help", "alpha", "frames", "evaluate_frames"}

    def options(parser):
        for action in parser._actions:
            if action.choices and isinstance(action.choices, dict):
                for below in action.choices.values():
                    yield from options(below)
            elif action.choices is None and action.nargs != 0 and action.type in (None, Path):
                yield action.dest

    assert set(options(build_parser())) - written - words <= known


def test_the_results_in_a_model_folder_are_no_part_of_the_model(tmp_path):
    write(tmp_path, model__unet_dot_safetensors="x", model__results__report_dot_json="old")
    words = [*COMMANDS["correspond"], "--video", "x", "--out", str(tmp_path / "model" / "results")]
    args = build_parser().parse_args(words)
    args.model = str(tmp_path / "model")
    model = next(reading for reading in readings(vars(args)) if reading.option == setting("model"))
    assert [file.name for file in model.files] == ["model", "unet.safetensors"]


def make(folder: Path) -> None:
    write(folder, edited_dot_mp4="new", report_dot_json="new", frames__frame_000000_dot_png="new")


NEW = {
    "edited.mp4": "new",
    "report.json": "new",
    "frames/frame_000000.png": "new",
    "frames/mine.png": "mine",
    "notes.txt": "mine",
}


def test_new_results_replace_old_ones_when_they_are_whole(earlier):
    before = files_in(earlier)
    with staged(earlier, "zero", OURS, resume=False, overwrite=True) as work:
        make(work)
        assert {name: text for name, text in files_in(earlier).items() if name in before} == before
        assert final_path(work / "edited.mp4") == earlier / "edited.mp4"
    assert files_in(earlier) == NEW and {path.name for path in earlier.iterdir()} == {
        "edited.mp4",
        "report.json",
        "frames",
        "notes.txt",
    }


def test_an_interrupted_run_leaves_the_old_results_and_can_be_resumed(earlier):
    before = files_in(earlier)
    with pytest.raises(KeyboardInterrupt), staged(earlier, "zero", OURS, resume=False, overwrite=True) as work:
        write(work, report_dot_json="half")
        raise KeyboardInterrupt
    assert {name: text for name, text in files_in(earlier).items() if name in before} == before
    with staged(earlier, "zero", OURS, resume=True, overwrite=False) as work:
        assert (work / "report.json").read_text() == "half"
        make(work)
    assert files_in(earlier) == NEW


def test_a_run_that_fails_before_it_writes_leaves_no_trace(earlier):
    before = sorted(earlier.rglob("*"))
    with pytest.raises(InputError), staged(earlier, "zero", OURS, resume=False, overwrite=True):
        raise InputError("no")
    assert sorted(earlier.rglob("*")) == before


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_killed_while_results_get_their_places_the_next_run_ends_it(earlier, monkeypatch, moved):
    calls, move = [], file_guard._move

    def dies(file: Path, target: Path) -> None:
        calls.append(file)
        if len(calls) > moved:
            raise KeyboardInterrupt
        move(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(file_guard, "_move", dies)
        if moved == 3:  # all is in place, but the empty folder is still there
            patch.setattr(file_guard, "_remove", lambda _: dies(earlier, earlier))
        with pytest.raises(KeyboardInterrupt), staged(earlier, "zero", OURS, resume=False, overwrite=True) as work:
            make(work)
    with staged(earlier, "zero", OURS, resume=True, overwrite=False) as work:
        assert work == earlier and files_in(earlier) == NEW
    assert not list(earlier.glob(".*"))


def test_a_fresh_folder_is_worked_in_itself(tmp_path):
    with staged(tmp_path, "zero", OURS, resume=False, overwrite=True) as work:
        assert work == tmp_path


def test_leftovers_of_results_are_removed_and_nothing_else(earlier):
    write(earlier, _dot_edited_dot_0123abcd_dot_partial_dot_mp4="half", frames___dot_mine_dot_0123abcd_dot_partial="x")
    others = {".other.0123abcd.partial.mp4", "frames/.frame_000001.0123abcd.partial.jpg"}
    for name in others:
        (earlier / name).write_text("of another program")
    (earlier / "frames" / ".frame_000001.0123abcd.partial.png").write_text("half")
    before = set(files_in(earlier))
    remove_leftovers(earlier, OURS)
    gone = {".edited.0123abcd.partial.mp4", "frames/.frame_000001.0123abcd.partial.png"}
    assert before - set(files_in(earlier)) == gone and others <= set(files_in(earlier))


def test_what_locks_a_folder_is_no_content(tmp_path):
    write(tmp_path, _dot_zero2hero_dot_lock="x")
    assert content(tmp_path) == [] and content(tmp_path / "none") == []


# --- files that the user names ----------------------------------------------------------------------------------------


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does nothing but report."""
    monkeypatch.setattr(cli_doctor, "run", lambda args: {"command": "doctor"})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{tmp}/clip.mp4", "but --video {tmp}/clip.mp4 reads it"),
        ("{tmp}/hard.json", "but --video {tmp}/clip.mp4 reads it"),
        ("{tmp}/link.json", "but --reference {tmp}/edit.png reads it"),
        ("{tmp}/zero/frames/frame_000000.png", "but --mask {tmp}/zero/frames reads it"),
        ("{out}", "but --out {out} needs this place"),
        ("{tmp}", "but --out {out} needs this place"),
        ("{out}/report.json", "is written by the run anyway"),
        ("{out}/Edited.MP4", "is written by the run anyway"),
        ("{out}/edited.mp4/report.json", "is written by the run anyway"),
        ("{out}/frames/frame_000012.png", "the run writes it in {out}/frames"),
        ("{tmp}/zero", "it is a folder"),
        ("{tmp}/clip.mp4/report.json", "clip.mp4 is no folder"),
        ("/proc/report.json", "/proc cannot be written to"),
    ],
)
def test_a_report_takes_no_other_files_place_and_that_is_said_before_the_work(place, message, tmp_path, capsys):
    write(tmp_path, clip_dot_mp4="x", edit_dot_png="x", zero__frames__frame_000000_dot_png="x")
    os.link(tmp_path / "clip.mp4", tmp_path / "hard.json")
    (tmp_path / "link.json").symlink_to("edit.png")
    places = {"tmp": tmp_path, "out": tmp_path / "out"}
    before = files_in(tmp_path)
    words = [*COMMANDS["zero"], "--video", "{tmp}/clip.mp4", "--mask", "{tmp}/zero/frames", "--out", "{out}"]
    assert main([word.format(**places) for word in [*words, "--json", place]]) == 2
    line = capsys.readouterr().err
    assert f"--json {place}: expected".format(**places) in line and message.format(**places) in line
    assert files_in(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("idle")
def test_of_a_link_the_file_it_leads_to_is_replaced_whole(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to("there/report.json")
    for _ in range(2):  # the file is missing at first
        assert main(["doctor", "--json", str(tmp_path / "link.json")]) == 0
        assert (tmp_path / "link.json").is_symlink()
        assert files_in(tmp_path / "there") == {"report.json": '{\n  "command": "doctor"\n}\n'}
    monkeypatch.setattr(cli_doctor, "run", lambda args: {"command": object()})
    assert main(["doctor", "--json", str(tmp_path / "link.json")]) == 1
    assert files_in(tmp_path / "there") == {"report.json": '{\n  "command": "doctor"\n}\n'}


@pytest.mark.usefixtures("idle")
def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert main(["doctor", "--json", str(pipe)]) == 0
    reader.join()
    assert json.loads(read[0]) == {"command": "doctor"} and pipe.is_fifo()


@pytest.mark.usefixtures("idle")
def test_devices_and_streams_are_written_to(capfd):
    assert main(["doctor", "--json", os.devnull]) == 0
    assert not Path(os.devnull).is_file() and capfd.readouterr().out == ""
    for place in ("-", "/dev/stdout"):
        assert main(["doctor", "--json", place]) == 0
        assert json.loads(capfd.readouterr().out) == {"command": "doctor"}


def test_a_program_whose_output_goes_to_a_file_keeps_it(repository, tmp_path):
    command = [sys.executable, "-m", "zero2hero_core", "doctor", "--json", "/dev/stdout"]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, stdout=log, env=os.environ | {"PYTHONPATH": str(repository)}, check=False)
    text = (tmp_path / "log").read_text()
    assert text.startswith("zero2hero ") and json.loads(text[text.index("\n{") :])["command"] == "doctor"


@pytest.mark.parametrize("kind", ["image", "tensors", "plot", "video"])
def test_no_writer_replaces_a_pipe(kind, tmp_path):
    import torch

    name = {"image": "p.png", "tensors": "p.safetensors", "plot": "p.png", "video": "p.mp4"}[kind]
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: expected the name of a file to write, got a pipe"):
        if kind == "image":
            write_image(tmp_path / name, torch.zeros(3, 8, 8), overwrite=True)
        elif kind == "tensors":
            write_tensors(tmp_path / name, {"x": torch.zeros(1)}, {})
        elif kind == "plot":
            log = TrainingLog(tmp_path)
            log.append(0, loss=1.0)
            log.plot(tmp_path / name)
        else:
            VideoWriter(tmp_path / name, 8, overwrite=True)
    assert (tmp_path / name).is_fifo()
