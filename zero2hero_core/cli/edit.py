"""`zero2hero edit`: the whole method in one command: Zero-Stage, training on the edited frame, restoring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..checks import InputError, Zero2HeroError
from .console import add_common
from .hero_options import add_hero_weight_options, add_restore_options, add_training_options
from .options import add_clip_options, add_match_options, add_output_options, add_preset, whole

if TYPE_CHECKING:
    from ..files.guard import Results

EXAMPLES = """\
The folder gets the video, frames/, report.json, and beside them zero/ (Zero-Stage), training/ (LoRA, plot, samples).
Each part resumes by itself.

examples:
  zero2hero edit --tiny --video clip.mp4 --anchor 0 --reference edited.png --out result
  zero2hero edit --zero-model sd15.safetensors --hero-model FLUX.2-klein-base-4B --weights nf4 --checkpointing \\
      --video clip.mp4 --anchor 12 --reference edited.png --out result --size 512
  zero2hero edit ... --out result --resume      (after an interruption: the same command with --resume)
"""
DIVISOR = 16  # of the sides of frames, for the checks


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
    add_preset(parser)
    add_match_options(parser)
    add_training_options(parser)
    add_restore_options(parser)
    parser.add_argument(
        "--batch", type=whole(1), default=2, metavar="N", help="frames at once; halved if memory is short"
    )
    add_output_options(parser)
    add_common(parser)
    parser.set_defaults(func=run, results=results)


def results(args: argparse.Namespace) -> Results:
    """What the command writes in --out: the results of its parts."""
    from ..files.guard import Results
    from ..jobs.frames import frame_results
    from ..jobs.restore import restore_results
    from ..jobs.train import train_results

    found = restore_results(args) | train_results(args).below("training") | Results(("anchor.png",))
    for folder in ("zero", "zero_anchor", "zero_target"):
        found |= frame_results("zero.json", "zero.mp4").below(folder)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check what can be checked before the first part begins, then run the parts; returns one report."""
    from .folder import job_folder

    _check_given(args)
    with job_folder(args, "edit", results(args), remedy="--resume or --overwrite") as out:
        return _run(args, out)


def _run(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    from ..files.guard import clear
    from ..files.json_file import write_json

    _check(args, out)
    started = time.perf_counter()
    if args.overwrite and out != Path(args.out):  # of an earlier edit that did not end, nothing is taken up
        clear(out)
    with _advice(out):
        reports = Edit(args, out).run()
    seconds = {name: part["seconds"]["total"] for name, part in reports.items()}
    report = reports["restore"] | {"command": "edit"}
    report |= {"parts": {name: part for name, part in reports.items() if name != "restore"}}
    report["notes"] = list(dict.fromkeys(note for part in reports.values() for note in part["notes"]))
    report["seconds"] |= {f"part {name}": value for name, value in seconds.items()}
    report["seconds"]["total"] = round(time.perf_counter() - started, 3)
    write_json(out / "report.json", report)
    return report


def _check_given(args: argparse.Namespace) -> None:
    """Raise `InputError` when models or files are missing."""
    from ..backbones.sources import HUB
    from ..jobs import clip as cli_inputs

    if args.tiny == bool(args.zero_model or args.hero_model) or (
        not args.tiny and not (args.zero_model and args.hero_model)
    ):
        raise InputError("models: expected --tiny, or --zero-model together with --hero-model.")
    cli_inputs.check_paths(args.video, args.reference, args.text_embedding, args.vae)
    if not args.tiny and not args.hero_model.startswith(HUB):
        cli_inputs.check_paths(args.hero_model)


def _check(args: argparse.Namespace, out: Path) -> None:
    """Raise `InputError` for what a later part would refuse, as far as it shows without the models."""
    from ..files.guard import content
    from ..jobs import clip as cli_inputs
    from ..jobs import frames as cli_frames
    from .hero_inputs import hero_settings, restore_settings

    if args.resume and content(out) and not (out / "zero").is_dir():
        raise InputError(f"--resume: {out} holds no earlier `zero2hero edit`; choose its folder.")
    blank: Any = SimpleNamespace(recommended={})  # what suits the model is in range
    settings = hero_settings(args, blank)
    restore_settings(args, blank).strength(0, len(settings.kinds))
    clip = cli_inputs.open_clip(args, DIVISOR)
    cli_frames.check_video(args, clip)
    if unknown := set(args.evaluate_frames or ()) - set(clip.indices):
        raise InputError(f"--evaluate-frames: frame {min(unknown)} is not a chosen frame.")


@contextmanager
def _advice(out: Path) -> Iterator[None]:
    """Within the block, errors say how the whole edit goes on."""
    how = "repeat the `zero2hero edit` command with --resume"
    try:
        yield
    except KeyboardInterrupt as error:
        raise Zero2HeroError(f"interrupted; what is finished is kept in {out}; to go on, {how}.") from error
    except Zero2HeroError as error:
        text, part = str(error), "give the same command with --resume"
        if not (out / "zero").is_dir():  # nothing has begun
            raise
        if part in text:
            text = text.replace(part, how)
        elif "--resume" not in text and "--overwrite" not in text:
            text = f"{text.rstrip('.')}; what is finished is kept in {out}; to go on, {how}."
        raise type(error)(text) from error


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
        given.overwrite = not changes.get("resume")  # the folder is ours: a part that cannot be taken up begins anew
        for name, value in changes.items():
            setattr(given, name, value)
        return given

    def _zero(self, folder: str, **changes: Any) -> dict[str, Any]:
        from .main import build_parser
        from .zero import run as run_zero

        blank = ["zero", "--tiny", "--video", "-", "--anchor", "0", "--reference", "-", "--out", "-"]
        defaults = vars(build_parser().parse_args(blank))
        part = self._part(folder, resume=self._resumes(folder, "zero.json", "zero"), **changes)
        given = {name: value for name, value in vars(part).items() if name in defaults}
        merged = defaults | given | {"model": self.args.zero_model, "dtype": "auto", "func": None}
        merged |= {"video_name": "zero.mp4", "codec": None, "crf": None}
        return run_zero(argparse.Namespace(**merged))

    def _train(self, folders: list[str], target: str | None) -> dict[str, Any]:
        from ..jobs.train import train

        resume = self._resumes("training", "train.json", "hero train")
        more = {"zero": folders, "zero_anchor": target, "also": [], "truth": None, "resume": resume}
        return train(self._part("training", **more, **self._hero()))

    def _restore(self, folders: list[str]) -> dict[str, Any]:
        from ..files.guard import begun_in
        from ..jobs.clip import fingerprint
        from ..jobs.frames import read_state
        from ..jobs.restore import restore

        lora = self.out / "training" / "hero_lora.safetensors"
        begun = begun_in(self.out, "hero restore") / "hero.json"
        resume = self._resumes("", "hero.json", "hero restore")
        if resume:  # a training that went on has another LoRA now
            resume = read_state(begun).get("lora 0 sha256") == fingerprint(str(lora))
        return restore(self._part("", zero=folders, lora=[str(lora)], resume=resume, **self._hero()))

    def _hero(self) -> dict[str, Any]:
        """Model of Hero-Stage; the size is that of the Zero-Stage frames."""
        return {"model": self.args.hero_model, "dtype": None, "size": None}

    def _resumes(self, folder: str, state: str, command: str) -> bool:
        from ..files.guard import begun_in

        return bool(self.args.resume) and (begun_in(self.out / folder, command) / state).exists()

    @staticmethod
    def _anchor_is_chosen(report: dict[str, Any]) -> bool:
        return any(row["index"] == report["state"]["anchor"] for row in report["frames"])

    def _anchor_picture(self) -> str:
        """The anchor frame as a picture, in the clip's own size, for Zero-Stage with the anchor as its reference."""
        from ..video.source import open_frames
        from ..video.writer import write_image

        path = self.out / "anchor.png"
        with open_frames(self.args.video, start=self.args.anchor, maximum=1, multiple=1) as source:
            write_image(path, source.frames([0])[0], overwrite=True)
        return str(path)
