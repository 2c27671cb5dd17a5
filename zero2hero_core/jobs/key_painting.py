"""The painting of key frames into a folder, which can be stopped and taken up again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..backbones.surface import GuidedDenoiser
from ..checks import InputError, Zero2HeroError, setting
from ..files.guard import Results, content
from ..files.json_file import write_json
from ..guidance.batches import CarriedLatents, KeyBatch
from ..guidance.fresco import KeyFrameBatchPainter
from ..guidance.parts import Batch, Part
from ..guidance.rerender import KeyFramePainter, PaintedKey
from ..guidance.settings import FrescoSettings, RerenderSettings
from ..video.image_writer import write_image
from ..video.source import read_image
from .clip import Clip, Masks
from .guidance import outward, plan, rerender_steps, token_bytes
from .listener import Counter, Listener
from .spool import Spool
from .state import check_same, read_state

STATE, CARRIED = "keys.json", "carried"
RESULTS = Results((STATE,), ((".", r"key_\d{6,}\.png"), (CARRIED, r".+\.safetensors")))
_MUCH = 2 * 10**9  # bytes of tokens that are told of


@dataclass(frozen=True)
class ChosenKeys:
    """keys: numbers of the key frames in the original clip; anchor: the one that the others are held to; edit: (3, H,
    W), its edit, at the size that is painted at."""

    keys: tuple[int, ...]
    anchor: int
    edit: torch.Tensor | None


class KeyWork(ABC):
    """Painting of keys into a folder, which can be taken up again."""

    def __init__(self, clip: Clip, chosen: ChosenKeys, out: Path, listener: Listener):
        self.clip, self.chosen, self.out, self.listener = clip, chosen, out, listener
        self.frames, self.spool = clip.by_index(), Spool(out / CARRIED)
        self.done: set[int] = set()
        self._steps = Counter(listener, "steps")

    @abstractmethod
    def paint(self) -> None:
        """Paint what is missing."""

    def path_of(self, key: int) -> Path:
        """The picture of a key."""
        return self.out / f"key_{key:06d}.png"

    def begin(self, state: dict[str, Any], resume: bool) -> None:
        """Take up what an equal run left, or begin anew."""
        file = self.out / STATE
        resumed = resume and file.exists()
        if resumed:
            check_same(read_state(file), state)
        elif resume and content(self.out):
            raise InputError(f"{setting('resume')}: {self.out} holds no {STATE} of an earlier run; choose its folder.")
        self.out.mkdir(parents=True, exist_ok=True)
        if not resumed:
            self.spool.close()
            for path in self.out.glob("key_*.png"):
                path.unlink()
            write_json(file, state)

    def step(self) -> None:
        """One more step of a sampling."""
        self._steps.step()
        if self.listener.cancelled():
            raise Zero2HeroError("cancelled")

    def has(self, keys: Sequence[int]) -> bool:
        """Whether the pictures of keys are there, whole."""
        for key in keys:
            try:
                if tuple(read_image(self.path_of(key)).shape[-2:]) != self.clip.size_hw:
                    return False
            except InputError:  # missing or damaged: painted again
                return False
        return True

    def write(self, key: int, picture: torch.Tensor) -> None:
        """Keep the picture of a key."""
        if not bool(torch.isfinite(picture).all()):
            raise Zero2HeroError(
                f"the model gave values that are no numbers for frame {key}; try {setting('dtype')} float32 or bfloat16"
            )
        write_image(self.path_of(key), picture, overwrite=True)
        self.done.add(key)
        self.listener.preview(picture)
        self.listener.progress("key frames", len(self.done), len(self.chosen.keys))


class OneByOne(KeyWork):
    """Rerender-A-Video."""

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        settings: RerenderSettings,
        clip: Clip,
        chosen: ChosenKeys,
        out: Path,
        listener: Listener,
    ):
        super().__init__(clip, chosen, out, listener)
        self.painter = KeyFramePainter(denoiser, settings, on_step=self.step)
        self._steps = Counter(listener, "steps", rerender_steps(self.painter, len(chosen.keys)))
        shrink = denoiser.multiple // 8
        latent_hw = (clip.size_hw[0] // shrink, clip.size_hw[1] // shrink)
        if (needed := token_bytes(self.painter, latent_hw, 2)) > _MUCH:
            listener.note(f"the tokens of earlier keys take up to {needed / 1e9:.1f} GB of main memory")

    def paint(self) -> None:
        """The anchor, then outward; after each key what the next one needs is kept."""
        chosen = self.chosen
        self.write(chosen.anchor, self.painter.begin(chosen.anchor, self.frames[chosen.anchor], chosen.edit).picture)
        for side, keys in enumerate(outward(chosen.keys, chosen.anchor)):
            self.painter.turn_back()
            todo = self._take_up(side, keys)
            for key in todo:
                painted = self.painter.paint(key, self.frames[key])
                self.write(key, painted.picture)
                self._keep(side, painted)
        self.spool.close()

    def _keep(self, side: int, painted: PaintedKey) -> None:
        own = {"index": torch.tensor(painted.index), "picture": painted.picture, "latents": painted.latents}
        bank = {f"bank {name}": tensor for name, tensor in painted.bank.tensors().items()}
        count = torch.tensor(self.painter.painted)
        self.spool.put(f"previous-{side}", {name: value.cpu() for name, value in own.items()} | bank | {"count": count})

    def _take_up(self, side: int, keys: list[int]) -> list[int]:
        """Go on after the last key of a side that was kept; returns those that are missing."""
        kept = self.spool.get(f"previous-{side}")
        index = -1 if kept is None else int(kept["index"])
        if kept is None or index not in keys or not self.has(keys[: keys.index(index) + 1]):
            return keys
        place = keys.index(index) + 1
        bank = {name.removeprefix("bank "): tensor for name, tensor in kept.items() if name.startswith("bank ")}
        self.painter.take_up(index, self.frames[index], kept["picture"], kept["latents"], bank, int(kept["count"]))
        self.done |= set(keys[:place])
        return keys[place:]


class InBatches(KeyWork):
    """FRESCO."""

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        settings: FrescoSettings,
        parts: Sequence[Part],
        foreground: Masks | None,
        clip: Clip,
        chosen: ChosenKeys,
        out: Path,
        listener: Listener,
    ):
        super().__init__(clip, chosen, out, listener)
        self.foreground = foreground
        self.painter = KeyFrameBatchPainter(denoiser, settings, parts, on_step=self.step)
        self.batches = plan(chosen.keys, chosen.anchor, settings.batch)
        self._steps = Counter(listener, "steps", len(self.batches) * self.painter.steps_of_batch)

    def paint(self) -> None:
        """Batch by batch; after each what the next one needs is kept."""
        for number, batch in self._missing():
            painted = self.painter.paint(self._batch(batch.frames), batch.carried, self.chosen.edit)
            for row in range(batch.carried, len(batch.frames)):
                self.write(batch.frames[row], painted.pictures[row])
            self.painter.carried.save(self._record(number))
            self._record(number - 1).unlink(missing_ok=True)
        self.spool.close()

    def _record(self, number: int) -> Path:
        folder = self.out / CARRIED
        folder.mkdir(exist_ok=True)
        return folder / f"batch-{number:06d}.safetensors"

    def _missing(self) -> Iterator[tuple[int, KeyBatch]]:
        first = 0
        for number in range(len(self.batches)):
            if self._record(number).exists():
                produced = [key for one in self.batches[: number + 1] for key in one.new]
                if self.has(produced):
                    self.painter.carried = CarriedLatents.load(self._record(number))
                    self.done, first = set(produced), number + 1
        yield from list(enumerate(self.batches))[first:]

    def _batch(self, keys: Sequence[int]) -> Batch:
        masks = None
        if self.foreground is not None:
            numbers = {index: number for number, index in enumerate(self.clip.indices)}
            masks = self.foreground.batch([numbers[key] for key in keys])
        return Batch(tuple(keys), torch.stack([self.frames[key] for key in keys]), masks)
