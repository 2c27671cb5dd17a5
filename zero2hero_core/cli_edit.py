"""`zero2hero edit`: the whole method in one command: Zero-Stage, training on the edited frame, restoring."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from .cli_hero_options import add_hero_weight_options, add_restore_options, add_training_options
from .cli_options import add_clip_options, add_match_options, add_output_options, whole
from .cli_shared import add_common

EXAMPLES = """\
The folder gets the video, frames/, report.json, and beside them zero/ (Zero-Stage), training/ (LoRA, plot, samples).
Each part resumes by itself.

examples:
  zero2hero edit --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result
  zero2hero edit --zero-model sd15.safetensors --hero-model FLUX.2-klein-base-4B --weights nf4 --checkpointing \\
      --video clip.mp4 --anchor 12 --reference edited.png --out result --size 512
  zero2hero edit ... --out result --resume      (after an interruption: the same command with --resume)
"""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "edit",
        help="the whole edit: Zero-Stage, training, restoring",
        usage="zero2hero edit --video V --reference IMG --anchor N --out DIR "
        "(--tiny | --zero-model PATH --hero-model PATH) [options]",
        description="Give a whole clip the look of the reference, an edit of the anchor frame.",
        epilog=EXAMPLES,
    )
    add_clip_options(parser, reference=True)
    model = parser.add_argument_group("models", "Either --tiny, or both of the others.")
    model.add_argument("--tiny", action="store_true", help="the bundled tiny models: for trials, not real footage")
    model.add_argument("--zero-model", metavar="PATH", help="Stable Diffusion 1.5 or 2.1: folder or .safetensors file")
    model.add_argument("--hero-model", metavar="PATH", help="FLUX.1 or FLUX.2-klein: folder or .safetensors file")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_hero_weight_options(model)
    add_match_options(parser)
    add_training_options(parser)
    add_restore_options(parser)
    parser.add_argument(
        "--batch", type=whole(1), default=2, metavar="N", help="frames at once; halved if memory is short"
    )
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, each of which checks its own input; returns one report."""
    from . import cli_inputs
    from .checks import InputError

    if args.tiny == bool(args.zero_model or args.hero_model) or (
        not args.tiny and not (args.zero_model and args.hero_model)
    ):
        raise InputError("models: expected --tiny, or --zero-model together with --hero-model.")
    out = Path(args.out)
    cli_inputs.check_paths(args.video, args.reference)
    cli_inputs.check_folder(out, may_exist=args.resume or args.overwrite, remedy="--resume or --overwrite")
    started = time.perf_counter()
    reports = Edit(args, out).run()
    seconds = {name: part["seconds"]["total"] for name, part in reports.items()}
    report = reports["restore"] | {"command": "edit"}
    report |= {"parts": {name: part for name, part in reports.items() if name != "restore"}}
    report["notes"] = [note for part in reports.values() for note in part["notes"]]
    report["seconds"] |= {f"part {name}": value for name, value in seconds.items()}
    report["seconds"]["total"] = round(time.perf_counter() - started, 3)
    from .cli_shared import write_json

    write_json(out / "report.json", report)
    return report


class Edit:
    """The parts of one edit, as commands with the options of `edit`."""

    def __init__(self, args: argparse.Namespace, out: Path):
        self.args, self.out = args, out

    def run(self) -> dict[str, dict[str, Any]]:
        """Reports by part, in the order of the work."""
        reports = {"zero": self._zero("zero")}
        folders = [str(self.out / "zero")]
        if not self._anchor_is_chosen(reports["zero"]):
            one = {"start": self.args.anchor, "stop": None, "stride": 1, "max_frames": 1}
            reports["zero anchor"] = self._zero("zero_anchor", **one)
            folders.append(str(self.out / "zero_anchor"))
        target = None
        if self.args.mode == "implicit":
            target = str(self.out / "zero_target")
            reports["zero target"] = self._zero("zero_target", reference=self._anchor_picture())
        reports["train"] = self._train(folders, target)
        reports["restore"] = self._restore(folders)
        return reports

    def _part(self, folder: str, **changes: Any) -> argparse.Namespace:
        """The options of a part; it resumes where it has begun."""
        given = argparse.Namespace(**vars(self.args))
        given.out = str(self.out / folder) if folder else str(self.out)
        given.json = None
        for name, value in changes.items():
            setattr(given, name, value)
        return given

    def _zero(self, folder: str, **changes: Any) -> dict[str, Any]:
        from .cli import build_parser
        from .cli_zero import run as run_zero

        blank = ["zero", "--tiny", "--video", "-", "--anchor", "0", "--reference", "-", "--out", "-"]
        defaults = vars(build_parser().parse_args(blank))
        part = self._part(folder, **changes)
        given = {name: value for name, value in vars(part).items() if name in defaults}
        merged = defaults | given | {"model": self.args.zero_model, "dtype": "auto", "func": None, "codec": None}
        merged |= {"video_name": "zero.mp4", "resume": self._resumes(folder, "zero.json")}
        return run_zero(argparse.Namespace(**merged))

    def _train(self, folders: list[str], target: str | None) -> dict[str, Any]:
        from .cli_hero_train import train

        more = {"zero": folders, "zero_anchor": target, "also": [], "truth": None, "model": self.args.hero_model}
        resume = self._resumes("training", "train.json")
        return train(self._part("training", dtype=None, resume=resume, **more))

    def _restore(self, folders: list[str]) -> dict[str, Any]:
        from .cli_hero_restore import restore

        lora = [str(self.out / "training" / "hero_lora.safetensors")]
        resume = self._resumes("", "hero.json")
        changes = {"zero": folders, "lora": lora, "model": self.args.hero_model, "dtype": None, "resume": resume}
        return restore(self._part("", overwrite=True, **changes))

    def _resumes(self, folder: str, state: str) -> bool:
        return bool(self.args.resume) and (self.out / folder / state).exists()

    @staticmethod
    def _anchor_is_chosen(report: dict[str, Any]) -> bool:
        return any(row["index"] == report["state"]["anchor"] for row in report["frames"])

    def _anchor_picture(self) -> str:
        """The anchor frame as a picture, in the clip's own size, for Zero-Stage with the anchor as its reference."""
        from .video import open_frames
        from .video_writer import write_image

        path = self.out / "anchor.png"
        with open_frames(self.args.video, start=self.args.anchor, maximum=1, multiple=1) as source:
            write_image(path, source.frames([0])[0], overwrite=True)
        return str(path)
