"""The extension object that the host asks for: the nodes of every topic."""

from __future__ import annotations

from importlib import import_module

from .host.services import ComfyExtension, io

TOPICS = (
    "models",
    "video",
    "key_frames",
    "propagation",
    "deflicker",
    "guidance",
    "guidance_patches",
    "zero_stage",
    "hero_training",
    "hero_stage",
    "evaluation",
)


class Zero2HeroExtension(ComfyExtension):
    """Collects the `NODES` of the topic files."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class, topic by topic."""
        names = [f"{__package__}.{topic}" for topic in TOPICS]
        return [node for name in names for node in import_module(name).NODES]


async def comfy_entrypoint() -> Zero2HeroExtension:
    """Return the extension."""
    return Zero2HeroExtension()
