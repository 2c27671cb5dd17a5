"""The Blender process: render what is missing of a job, a line of JSON on stdout for every frame.

Blender writes its own messages to stdout from C; they are sent to stderr, so that stdout carries nothing else.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from .job import RenderJob, geometry_name, picture_name


def main(folder: str) -> None:
    """Render the job in `folder` into it. A frame that is there already is not rendered again."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        import bpy
    except ImportError as error:
        tell({"missing": str(error)})
        return
    tell({"blender": bpy.app.version_string})
    render(RenderJob.read(Path(folder)), Path(folder), tell)


def render(job: RenderJob, folder: Path, tell: Any) -> None:
    """Render all frames that are missing, each file under a temporary name first."""
    scene = None
    for index, camera in enumerate(job.cameras()):
        seconds = {}
        todo = [*(picture_name(index, look) for look in (0, 1)), geometry_name(index)]
        for place, name in enumerate(todo):
            if (folder / name).exists():
                continue
            if scene is None:
                from .scene import BlenderScene

                scene = BlenderScene(job)
            started, part = time.perf_counter(), folder / f".partial.{name}"
            scene.place_camera(camera)
            if place < 2:
                scene.use_appearance(place)
                scene.render_picture(str(part))
            else:
                exr = folder / ".partial.exr"
                depth, parts = scene.render_geometry(str(exr))
                exr.unlink()
                with part.open("wb") as stream:
                    np.savez(stream, depth=depth, part=parts)
            os.replace(part, folder / name)
            seconds[("first", "second", "geometry")[place]] = round(time.perf_counter() - started, 3)
        tell({"frame": index, "seconds": seconds})
