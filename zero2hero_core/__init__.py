"""Zero-to-Hero: give a whole video the look of one edited frame.

The method without ComfyUI. Importing this package loads nothing else; `propagate` carries edited frames through a clip
without a model, `edit` is the whole method in one call, and every module can be imported by itself. The same is on the
command line as `zero2hero` or `python -m zero2hero_core`.

    import zero2hero_core as z2h

    report = z2h.propagate(video="clip.mp4", key={0: "edited.png"}, out="result")
    print(report["video"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .jobs.listener import Listener

__all__ = ["__version__", "edit", "guide", "propagate"]


def edit(*, listener: Listener | None = None, **values: Any) -> dict[str, Any]:
    """Give a whole clip the look of one edited frame: Zero-Stage, training, restoring.

    Args:
        listener: hears notes and progress, and may cancel; silent by default (`jobs.listener.Listener`).
        values: the settings by name: those of `zero2hero edit` with _ for -, and of the requests in
            `jobs.edit.EditRequest`; video, reference and out are needed, and either tiny=True or zero_model and
            hero_model.

    Returns: the report of the run: video, frames, notes, seconds ... as in report.json.

    Raises: checks.InputError for what cannot be used, a misspelt name too; checks.Unfinished when the work ended early:
        with resume=True the same call goes on.
    """
    from .jobs import edit as job
    from .jobs.listener import Listener
    from .jobs.request import check_names, make_request

    check_names(job.EditRequest, values)
    return job.run(make_request(job.EditRequest, values), listener or Listener())


def propagate(*, listener: Listener | None = None, **values: Any) -> dict[str, Any]:
    """Carry edited frames through a clip: on the CPU, at the clip's own size, without a model.

    Args:
        listener: as for `edit`.
        values: the settings by name: those of `zero2hero propagate` with _ for -, and of the requests in
            `jobs.propagate.PropagateRequest`; video, key (index of an edited frame -> its picture file) and out are
            needed.

    Returns: the report of the run, as in report.json.

    Raises: as `edit`.
    """
    from .jobs import propagate as job
    from .jobs.listener import Listener
    from .jobs.request import check_names, make_request

    check_names(job.PropagateRequest, values)
    return job.run(make_request(job.PropagateRequest, values), listener or Listener())


def guide(*, listener: Listener | None = None, **values: Any) -> dict[str, Any]:
    """Paint a clip anew from a prompt, or from the edit of one frame, held together by Rerender-A-Video or FRESCO.

    Args:
        listener: as for `edit`.
        values: the settings by name: those of the requests in `jobs.guide.GuideRequest`; video and out are needed, and
            either tiny=True or model.

    Returns: the report of the run, as in report.json.

    Raises: as `edit`.
    """
    from .jobs import guide as job
    from .jobs.listener import Listener
    from .jobs.request import check_names, make_request

    check_names(job.GuideRequest, values)
    return job.run(make_request(job.GuideRequest, values), listener or Listener())
