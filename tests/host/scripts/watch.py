"""Queues a graph as the front end does and counts what comes over the WebSocket; prints JSON.

HOST_PYTHON watch.py URL PROMPT.json
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

CLIENT = "watcher"


async def watch(url: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """Pictures by node, progress by node (value and maximum as they came), nodes in their order."""
    pictures: Counter[str] = Counter()
    progress: dict[str, list[list[float]]] = {}
    order: list[str] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId={CLIENT}") as socket:
        answer = await session.post(f"{url}/prompt", json={"prompt": prompt, "client_id": CLIENT})
        prompt_id = (await answer.json())["prompt_id"]
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                pictures[order[-1] if order else ""] += 1
                continue
            event = json.loads(message.data)
            data = event["data"]
            if event["type"] == "progress":
                progress.setdefault(data["node"], []).append([data["value"], data["max"]])
            if event["type"] == "executing" and data.get("prompt_id") == prompt_id:
                if data["node"] is None:
                    break
                order.append(data["node"])
            if event["type"] == "execution_error":
                raise SystemExit(data["exception_message"])
    return {"pictures": pictures, "progress": progress, "order": order}


if __name__ == "__main__":
    found = asyncio.run(watch(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))
    print(json.dumps(found))
