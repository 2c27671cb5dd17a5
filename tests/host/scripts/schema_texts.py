"""Prints as JSON what every node's schema says to the user: names, description, tooltips, in the schema's order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import zero2hero_ext


async def schemas() -> list[Any]:
    """Schemas of all nodes, as the host collects them."""
    extension = await zero2hero_ext.comfy_entrypoint()
    return [node.GET_SCHEMA() for node in await extension.get_node_list()]


def socket(item: Any) -> dict[str, str | None]:
    """The texts of an input or output."""
    return {"id": item.id, "display_name": item.display_name, "tooltip": item.tooltip}


print(
    json.dumps(
        {
            one.node_id: {
                "display_name": one.display_name,
                "description": one.description,
                "category": one.category,
                "inputs": [socket(item) for item in one.inputs],
                "outputs": [socket(item) for item in one.outputs or []],
            }
            for one in asyncio.run(schemas())
        }
    )
)
