"""Prints as JSON: seconds the extension takes beside the host's own imports, and the ids of every node's sockets."""

from __future__ import annotations

import asyncio
import json
import time

import nodes  # noqa: F401 (the host's: what is loaded anyway before custom nodes)

start = time.process_time()  # what a clock shows on an idle machine
import zero2hero_ext  # noqa: E402


async def schemas():
    """Schemas of all nodes, as the host collects them."""
    extension = await zero2hero_ext.comfy_entrypoint()
    return [node.GET_SCHEMA() for node in await extension.get_node_list()]


found = asyncio.run(schemas())
seconds = time.process_time() - start
sockets = {
    one.node_id: {"inputs": [item.id for item in one.inputs], "outputs": [item.id for item in one.outputs or []]}
    for one in found
}
print(json.dumps({"seconds": seconds, "nodes": sockets}))
