"""Motion and key frames as nodes: optical flow with what is hidden, and which frames to edit."""

from __future__ import annotations

from typing import Any

from .convert.pictures import mask_to_host, to_host
from .host.services import io, ui
from .host.sockets import CATEGORY, Flow, OpticalFlowModel
from .work.key_frames import ENGINES, LAWS, METHODS, find_motion, select_frames


class OpticalFlow(io.ComfyNode):
    """Flow between neighbouring frames, both ways."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="OpticalFlow",
            display_name="Optical Flow (Zero-to-Hero)",
            category=CATEGORY,
            description="Finds where each pixel of a frame lies in the next frame and in the one before, and which "
            "pixels these do not show.",
            inputs=_motion_inputs(),
            outputs=_motion_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, frames: Any, optical_flow: Any = None, **widgets: Any) -> io.NodeOutput:
        """Find the flows."""
        motion = find_motion(cls, frames, optical_flow, widgets)
        masks = (mask_to_host(one) for one in (motion.found.hidden_next, motion.found.hidden_previous))
        pictures = to_host(motion.pictures)
        preview = ui.PreviewImage(pictures, cls=cls)
        return io.NodeOutput(motion.found.flows, *masks, pictures, ui=motion.notes.ui(preview))


class SelectKeyFrames(io.ComfyNode):
    """Which frames to edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="SelectKeyFrames",
            display_name="Select Key Frames (Zero-to-Hero)",
            category=CATEGORY,
            description="Chooses the frames to edit, never across a cut, and says how much of the clip they show and "
            "which frame to edit next.",
            inputs=_choice_inputs(),
            outputs=_choice_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, frames: Any, flow: Any = None, **widgets: Any) -> io.NodeOutput:
        """Choose."""
        selected = select_frames(cls, frames, flow, widgets)
        picture = to_host(selected.picture)
        preview = ui.PreviewImage(picture, cls=cls)
        keys = list(selected.result.keys)
        values = (selected.key_frames, selected.text, keys, selected.following, picture)
        return io.NodeOutput(*values, ui=selected.notes.ui(preview))


def _motion_inputs() -> list[io.Input]:
    return [
        io.Image.Input("frames", tooltip="All frames of the clip, two or more."),
        io.Combo.Input(
            "engine",
            options=ENGINES,
            default="dis",
            tooltip="dis: OpenCV's dense inverse search, without a model. raft: RAFT from torchvision's file, "
            "where it lies on this machine. Has no effect where optical_flow is connected.",
        ),
        io.Int.Input(
            "longest_side",
            default=960,
            min=0,
            max=8192,
            step=8,
            tooltip="Larger frames are scaled down to this side first and the flow up again; 0 works at full size.",
        ),
        io.Combo.Input(
            "law",
            options=LAWS,
            default="unflow",
            tooltip="When a pixel counts as hidden: unflow, where flow and flow back do not meet; sundaram, a "
            "stricter test that also leaves out the edges of what moves.",
        ),
        io.Boolean.Input(
            "photometric",
            default=False,
            tooltip="Pixels whose colour differs by more than a quarter count as hidden, too.",
        ),
        io.Boolean.Input(
            "soft", default=False, tooltip="The masks get a ramp of about eight pixels around what is hidden."
        ),
        OpticalFlowModel.Input(
            "optical_flow",
            optional=True,
            tooltip="A model of Load Optical Flow Model (RAFT), in hosts that have this node; used in place of "
            "the engine.",
        ),
    ]


def _motion_outputs() -> list[io.Output]:
    return [
        Flow.Output("flow", display_name="flow", tooltip="Both ways between all neighbours."),
        io.Mask.Output(
            "hidden_next",
            display_name="hidden_next",
            tooltip="For each frame: what the next frame does not show. Empty for the last one.",
        ),
        io.Mask.Output(
            "hidden_previous",
            display_name="hidden_previous",
            tooltip="For each frame: what the one before does not show. Empty for the first one.",
        ),
        io.Image.Output(
            "flow_map",
            display_name="flow_map",
            tooltip="For up to eight frames: the frame, and its flow to the next one in colours (hue is the "
            "direction, white is still).",
        ),
    ]


def _choice_inputs() -> list[io.Input]:
    return [
        io.Image.Input("frames", tooltip="All frames of the clip."),
        io.Combo.Input(
            "method",
            options=METHODS,
            default="advice",
            tooltip="advice: the frames that show most of what no key frame shows yet. uniform: every few "
            "frames. adaptive: where the picture changes most.",
        ),
        io.Int.Input(
            "count",
            default=0,
            min=0,
            max=999_999,
            tooltip="Key frames in all, those so far included (adaptive: at most). 0: one more with advice, as "
            "many as the distances ask for with the others.",
        ),
        io.Int.Input("every", default=10, min=1, max=999_999, tooltip="uniform: distance of key frames."),
        io.Int.Input(
            "smallest_gap", default=5, min=1, max=999_999, tooltip="adaptive: no key frame nearer to another."
        ),
        io.Int.Input(
            "largest_gap", default=20, min=1, max=999_999, tooltip="adaptive: no larger gap between key frames."
        ),
        io.String.Input(
            "keys_so_far",
            default="",
            tooltip="Frames that you have edited already, such as 12,60, counted from 0; they stay key frames.",
        ),
        Flow.Input(
            "flow",
            optional=True,
            tooltip="From OpticalFlow, for the same frames. Without it the node finds flow by itself, at a "
            "small size, which needs OpenCV.",
        ),
    ]


def _choice_outputs() -> list[io.Output]:
    return [
        io.Image.Output("key_frames", display_name="key_frames", tooltip="The key frames in order: edit them."),
        io.String.Output(
            "key_indices", display_name="key_indices", tooltip="Their places in the clip, such as 0,12,31."
        ),
        io.Int.Output(
            "index_list",
            display_name="index_list",
            is_output_list=True,
            tooltip="The same as a list: what follows runs once for each.",
        ),
        io.Int.Output(
            "next_index",
            display_name="next_index",
            tooltip="The frame that adds most as the next key frame; -1 without advice.",
        ),
        io.Image.Output(
            "coverage",
            display_name="coverage",
            tooltip="How much of each frame the key frames show, with key frames and cuts.",
        ),
    ]


NODES = [OpticalFlow, SelectKeyFrames]
