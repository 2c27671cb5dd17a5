"""Edited key frames carried to the whole clip, without a model."""

from __future__ import annotations

from typing import Any

from ..zero2hero_core.propagation.names import ENGINES
from ..zero2hero_core.propagation.settings import PropagationSettings
from .convert.checks import check_choice
from .host.services import io, ui
from .host.sockets import CATEGORY, Flow
from .work.propagation import Clip, propagate_clip, some_of

WITNESSES = ["a second opinion", "another tool's result"]


class PropagateKeyFrames(io.ComfyNode):
    """The edits of one or several frames, carried to all frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="PropagateKeyFrames",
            display_name="Propagate Key Frames",
            category=CATEGORY,
            description="Carries the edit of one or several frames to all frames of the clip: on any machine, at the "
            "clip's own size, without a model. Structure, light and motion blur stay those of each frame.",
            inputs=_inputs(),
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        frames: Any,
        edits: Any,
        keys: str,
        engine: str,
        anchor_index: int | None = None,
        mask: Any = None,
        flow: Any = None,
        more_edits: Any = None,
        round_trip: bool = False,
        witness: Any = None,
        keep_unedited: bool = False,
        witness_is: str = WITNESSES[0],
    ) -> io.NodeOutput:
        """Carry the edits."""
        chosen = keys if anchor_index is None else str(anchor_index)
        check_choice("engine", engine, ENGINES)
        check_choice("witness_is", witness_is, WITNESSES)
        settings = PropagationSettings(engine=engine, round_trip=round_trip)  # type: ignore[arg-type]
        clip = Clip(frames, (edits, more_edits), chosen, mask, flow, witness, keep_unedited, witness_is == WITNESSES[1])
        result = propagate_clip(cls, clip, settings)
        preview = ui.PreviewImage(some_of(result.edited), cls=cls)
        return io.NodeOutput(result.edited, result.doubt, ui=result.notes.ui(preview))


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("frames", tooltip="All frames of the clip, of any size."),
        io.Image.Input(
            "edits",
            tooltip="The edited frames, one picture for each number in keys, in the same order. They may be "
            "smaller than the frames: what was changed is put on the frames' own pixels.",
        ),
        io.String.Input(
            "keys",
            default="0",
            tooltip="Which frames were edited, counted from 0: one number, or several like 0, 12, 60.",
        ),
        io.Combo.Input(
            "engine",
            options=list(ENGINES),
            default="auto",
            tooltip="What is carried. auto: what the edit did, put on each frame's own pixels, mixed at each "
            "place by what the edit kept of the frame there. change: its plain form, the difference. flow: the "
            "edit's pixels, moved along the optical flow. patch: patches of the edit, placed where they fit "
            "the frame.",
        ),
        io.Int.Input(
            "anchor_index",
            optional=True,
            force_input=True,
            tooltip="The number of a single edited frame, as VideoLoad gives it; it stands for keys.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where to edit (white), one mask or one a frame; outside, every pixel stays.",
        ),
        Flow.Input(
            "flow",
            optional=True,
            tooltip="From OpticalFlow, for the same frames. Without it the node finds motion by itself, in a "
            "way that stands changes of light.",
        ),
        io.Image.Input(
            "more_edits",
            optional=True,
            tooltip="Further edited frames, whose numbers follow in keys: the second picture, say.",
        ),
        io.Boolean.Input(
            "round_trip",
            optional=True,
            default=False,
            tooltip="For HeroLoRATrainer: the edited frames, too, get what was carried from them to other "
            "frames and back, worn as all others.",
        ),
        io.Image.Input(
            "witness",
            optional=True,
            tooltip="All frames in the edit's look as another method or tool made them, HeroRestore say: their "
            "colours are mixed in where what is carried is not to be trusted. Of any size.",
        ),
        io.Boolean.Input(
            "keep_unedited",
            optional=True,
            default=False,
            tooltip="Where the edit changes nothing, as far as it shows, every pixel stays the frame's own.",
        ),
        io.Combo.Input(
            "witness_is",
            options=WITNESSES,
            default=WITNESSES[0],
            optional=True,
            tooltip="a second opinion: mixed in where what is carried is not to be trusted (HeroRestore). another "
            "tool's result: kept, and freed of its drift in colour, sharpness and place.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Image.Output("edited", display_name="edited", tooltip="The frames with the edit."),
        io.Mask.Output(
            "doubt",
            display_name="doubt",
            tooltip="How little each place is to be trusted, 0 to 1: white where no key shows what is there.",
        ),
    ]


NODES = [PropagateKeyFrames]
