"""What a node says aloud: in the host's log, on the node, and in its outputs."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch

from ...zero2hero_core.jobs.clip import empty_masks_text
from ...zero2hero_core.jobs.listener import Listener
from .services import Progress, io


class Notes:
    """Texts of one run of a node. The node's schema must ask for the hidden `unique_id` to show them on the node."""

    def __init__(self, node: type[io.ComfyNode]) -> None:
        self._name, self._hidden = node.__name__, node.hidden
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Show a line on the node."""
        self.lines.append(text)
        self._show()

    def warn(self, text: str) -> None:
        """Show a line on the node and write it to the host's log as a warning."""
        logging.warning("%s: %s", self._name, text)
        self.say(f"Note: {text}")

    def _show(self) -> None:
        server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
        node_id = getattr(self._hidden, "unique_id", None)
        if server is not None and node_id is not None:
            server.send_progress_text("\n".join(self.lines), node_id)

    def ui(self, preview: Any = None) -> dict[str, Any]:
        """For `io.NodeOutput(ui=...)`: the lines, and the pictures of a `ui.PreviewImage`."""
        values = {} if preview is None else preview.as_dict()
        return values | ({"text": ("\n".join(self.lines),)} if self.lines else {})


def say_empty_masks(notes: Notes, masks: torch.Tensor | None) -> None:
    """Warn where masks (N, 1, H, W) are empty."""
    if masks is not None and (text := empty_masks_text(sum(not bool(mask.any()) for mask in masks), len(masks))):
        notes.warn(f"{text}.")


class NodeListener(Listener):
    """What a core job tells, on the node. progress: the node's bar, where pictures of the work are shown."""

    def __init__(self, notes: Notes, progress: Progress | None = None) -> None:
        self.notes, self._progress = notes, progress

    def note(self, text: str) -> None:
        """A warning on the node."""
        self.notes.warn(text if text.endswith(".") else f"{text}.")

    def say(self, text: str) -> None:
        """A line on the node."""
        self.notes.say(text)

    def preview(self, picture: torch.Tensor) -> None:
        """The picture under the node's bar."""
        if self._progress is not None:
            self._progress.step(0, picture)
