"""One job at a time in a folder, and the lock ends with its process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zero2hero_core.checks import InputError
from zero2hero_core.cli.main import main
from zero2hero_core.files import lock as folder_lock
from zero2hero_core.files.guard import LOCKS
from zero2hero_core.files.lock import LOCK, LOCKED, locked_folder

HOLDER = """\
import errno, sys
from pathlib import Path
from zero2hero_core.files import lock as folder_lock
way = sys.argv[2]
def unknown(*_):
    raise OSError(errno.ENOLCK, "no locks here")
if way != "flock":
    folder_lock.fcntl.flock = unknown
if way == "file":
    folder_lock.fcntl.lockf = unknown
with folder_lock.locked_folder(Path(sys.argv[1]), "zero2hero zero", ("zero",)):
    print("locked", flush=True)
    sys.stdin.read()
"""


def unknown(*_: object) -> None:
    raise OSError(errno.ENOLCK, "no locks here")


@pytest.fixture(params=["flock", "lockf", "file"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system knows."""
    if request.param != "flock":
        monkeypatch.setattr(folder_lock.fcntl, "flock", unknown)
    if request.param == "file":
        monkeypatch.setattr(folder_lock.fcntl, "lockf", unknown)
    return str(request.param)


@pytest.fixture
def other(way: str, tmp_path: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path / out."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out"), way]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_held_folder_is_refused_with_who_holds_it(other, way, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught, locked_folder(out, "zero2hero edit"):
        pass
    line = str(caught.value)
    assert f"{out}: in use by `zero2hero zero` (process {other.pid} on {socket.gethostname()}, since 2" in line
    assert "wait for it to end, or choose another folder" in line
    assert [path.name for path in out.iterdir()] == [LOCKED if way == "file" else LOCK]


def test_the_lock_ends_with_its_process_however_it_dies(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert list((tmp_path / "out").iterdir())  # the file is left, the lock is not
    with locked_folder(tmp_path / "out", "zero2hero edit"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_sub_folder_that_is_the_jobs_is_held_too_and_others_are_free(other, tmp_path):
    with (
        pytest.raises(InputError, match="out: in use by `zero2hero zero`"),
        locked_folder(tmp_path / "out" / "zero" / "deep", "zero2hero zero"),
    ):
        pass
    with locked_folder(tmp_path / "out" / "other", "zero2hero zero"), locked_folder(tmp_path, "zero2hero zero"):
        pass


def test_two_commands_in_one_folder(other, tmp_path, capsys):
    clip = tmp_path / "clip.png"
    clip.write_text("x")
    words = ["--tiny", "--video", str(clip), "--anchor", "0", "--out", str(tmp_path / "out"), "--overwrite"]
    for command in (["zero", "--reference", str(clip)], ["edit", "--reference", str(clip)], ["correspond"]):
        assert main([*command, *words]) == 2
        assert "in use by `zero2hero zero` (process" in capsys.readouterr().err
    for command in (["demo"], ["dataset", "rendered", "--clips", "1"], ["bench", "speed"], ["ablate", "--table", "3"]):
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert "in use by `zero2hero zero` (process" in capsys.readouterr().err
    assert next(path.name for path in (tmp_path / "out").iterdir()) in LOCKS


def test_the_same_thread_may_lock_again_and_another_may_not(way, tmp_path):
    out, said = tmp_path / "out", []

    def elsewhere() -> None:
        try:
            with locked_folder(out, "second"):
                said.append("no error")
        except InputError as error:
            said.append(str(error))

    with locked_folder(out, "edit", ("zero",)):
        with locked_folder(out, "restore"), locked_folder(out / "zero", "zero"):
            pass
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        (out / "result").touch()
    assert said == [
        f"{out}: in use by another job of this process ({os.getpid()}); wait for it to end, or choose another folder."
    ]
    assert [path.name for path in out.iterdir()] == ["result"]
    elsewhere()
    assert said[-1] == "no error"


def test_what_was_made_for_nothing_goes(way, tmp_path):
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "a" / "b", "x"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "free"), [({"host": "elsewhere"}, False), ({"born": "0"}, True), ({}, False)])
def test_a_lock_file_of_another_machine_stays_and_of_a_dead_process_goes(change, free, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_lock", lambda _: (_ for _ in ()).throw(folder_lock.Unsupported()))
    about = folder_lock._about("zero2hero zero", ()) | change
    (tmp_path / LOCKED).write_text(json.dumps(about))
    if free:
        with locked_folder(tmp_path, "x"):
            assert json.loads((tmp_path / LOCKED).read_text())["command"] == "x"
        return
    with pytest.raises(InputError, match=rf"if that run has ended, remove .*{LOCKED}"), locked_folder(tmp_path, "x"):
        pass
    assert json.loads((tmp_path / LOCKED).read_text()) == about


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be locked"), locked_folder(tmp_path, "x"):
        pass
    tmp_path.chmod(0o700)
