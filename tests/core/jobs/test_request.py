"""Requests: plain values by name become frozen dataclasses, one within another."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from zero2hero_core.checks import InputError, Unfinished, setting, worded
from zero2hero_core.cli.console import option_of
from zero2hero_core.jobs.edit import EditRequest
from zero2hero_core.jobs.listener import Listener, Notes
from zero2hero_core.jobs.request import check_names, flat_values, make_request, request_names
from zero2hero_core.jobs.zero import ZeroRequest


@dataclass(frozen=True)
class Inner:
    size: int
    model: str = "small"


@dataclass(frozen=True)
class Outer:
    model: Inner  # called like a value within it
    batch: int = 2


def test_values_find_their_request() -> None:
    assert make_request(Outer, {"size": 4, "model": "large", "other": 1}) == Outer(Inner(4, "large"))
    assert make_request(Outer, {"model": Inner(5), "batch": 3}) == Outer(Inner(5), 3)
    assert request_names(Outer) == ["size", "model", "batch"]
    assert flat_values(Outer(Inner(4))) == {"size": 4, "model": "small", "batch": 2}


def test_what_is_missing_or_misspelt_is_named() -> None:
    with pytest.raises(InputError, match="size: is needed"):
        make_request(Outer, {"batch": 1})
    with pytest.raises(InputError, match="betch: is no setting here; did you mean batch"):
        check_names(Outer, {"betch": 1})
    with pytest.raises(InputError, match="xyz: is no setting here; known are size, model, batch"):
        check_names(Outer, {"xyz": 1})


@pytest.mark.parametrize("kind", [EditRequest, ZeroRequest])
def test_no_name_means_two_settings(kind: type) -> None:
    names = request_names(kind)
    assert len(names) == len(set(names)) > 20


def test_requests_are_frozen() -> None:
    values = {"video": "v.mp4", "reference": "r.png", "out": "o", "tiny": True, "anchor": 1}
    request = make_request(EditRequest, values)
    assert (request.clip.video, request.anchor, request.output.out, request.hero.tiny) == ("v.mp4", 1, "o", True)
    with pytest.raises(FrozenInstanceError):
        request.batch = 3  # type: ignore[misc]  # that it cannot be set is the point


def test_settings_are_called_what_the_reader_calls_them() -> None:
    error = InputError(f"{setting('max_frames')}: expected less; lower it or {setting('num_inference_steps')}.")
    assert str(error) == "max_frames: expected less; lower it or num_inference_steps."
    assert error.worded(option_of) == "--max-frames: expected less; lower it or --steps."
    assert worded(error.text, str.upper) == "MAX_FRAMES: expected less; lower it or NUM_INFERENCE_STEPS."
    early = Unfinished(f"{error.text.rstrip('.')}; 3 frames are kept", exit_status=2)
    assert early.exit_status == 2
    assert str(early).endswith("3 frames are kept; to go on, do the same with resume.")
    assert early.worded(option_of, "give the same command").endswith("to go on, give the same command with --resume.")


def test_notes_are_told_and_kept_in_the_listeners_words() -> None:
    class Ears(Listener):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def word(self, name: str) -> str:
            return f"<{name}>"

        def note(self, text: str) -> None:
            self.heard.append(text)

    ears = Ears()
    notes = Notes(ears)
    notes.add(f"{setting('mask')} is empty")
    assert list(notes) == ears.heard == ["<mask> is empty"]
    silent = Notes(Listener())
    silent.add(f"{setting('mask')} is empty")
    assert silent == ["mask is empty"]


@dataclass(frozen=True)
class Fine:
    """What few change."""

    mask: float = 2.0


@dataclass(frozen=True)
class Coarse:
    """A part of a whole, with one of its own that has a default."""

    engine: str
    fine: Fine = field(default_factory=Fine)


@dataclass(frozen=True)
class Whole:
    """A request with a name that the finer settings have, too."""

    settings: Coarse
    mask: str | None = None


def test_settings_with_a_default_of_their_own_are_given_whole():
    values = {"engine": "flow", "mask": "mask.png"}
    request = make_request(Whole, values)
    assert request == Whole(Coarse("flow"), "mask.png") and flat_values(request)["mask"] == "mask.png"
    assert make_request(Whole, values | {"fine": Fine(1.0)}).settings.fine.mask == 1.0
    check_names(Whole, values | {"fine": Fine()})
