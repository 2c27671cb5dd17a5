"""Zero-Stage (Zero-to-Hero, arXiv 2505.23134): give the frames of a clip the reference's look through
correspondence-masked attention.

Here are the pictures: features, correspondence, encoding, one decode per frame. The work on latents is in
`zero_stage.latents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch

from ..attention.guidance import Guidance
from ..backbones.surface import UNetSurface
from ..checks import ShapeError, check_images, check_shape
from ..correspondence.match import Correspondence, match_features
from ..correspondence.several import join_matches
from ..correspondence.track import ClipTrack, search_near
from .latents import LatentEditor
from .settings import ZeroStageSettings

MAX_LATENTS = 16
UNet = TypeVar("UNet", bound=UNetSurface)

__all__ = ["ZeroStage", "ZeroStageSettings"]


class ZeroStage(Generic[UNet]):
    """Zero-Stage for one clip: the reference's inversion and the anchor's features are computed once.

    Args:
        backbone: the model.
        anchor: the original frame that was edited, (3, H, W) in [0, 1].
        reference: its edit, (3, H, W).
        anchor_index: its place in the clip (0-based).
        clip: frames (3, H, W) by their place, for following tokens from frame to frame (setting `track`); without it
            every frame is matched on its own.
        further: more frames that were edited: place in the clip, original, edit. Each part of a frame takes its look
            from the anchor that shows it surest (`correspondence.several`).
        guidances: what else acts on the attention while sampling, see `attention.guidance`; `Pass.frames` tells them
            which frames of the clip a batch holds.
    Raises: ShapeError when anchor and reference differ in size; InputError when the guidances do not go together.
    """

    def __init__(
        self,
        backbone: UNet,
        anchor: torch.Tensor,
        reference: torch.Tensor,
        anchor_index: int,
        settings: ZeroStageSettings | None = None,
        clip: Mapping[int, torch.Tensor] | None = None,
        *,
        further: Sequence[tuple[int, torch.Tensor, torch.Tensor]] = (),
        guidances: Sequence[Guidance] = (),
    ):
        if anchor.shape != reference.shape:
            raise ShapeError(
                f"reference: expected the anchor's size {tuple(anchor.shape)}, got {tuple(reference.shape)}."
            )
        self.backbone, self.anchor_index, self._anchor = backbone, anchor_index, anchor
        settings = settings or ZeroStageSettings()
        references = [reference, *(edit for _, _, edit in further)]
        latents = torch.cat([backbone.encode(picture[None]) for picture in references])
        self.editor = LatentEditor(backbone, latents, settings, guidances)
        self._others = [ZeroStage(backbone, frame, edit, index, settings, clip) for index, frame, edit in further]
        self.settings = self.editor.settings
        self._anchor_features: torch.Tensor | None = None
        self._track: ClipTrack | None = None
        if clip is not None and self.settings.track:
            self._track = ClipTrack(clip, anchor_index, self.features, self.editor.grids[-1])
        self._encodings: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # frames whose features it read, latents

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per part of the work so far."""
        return self.editor.watch.seconds

    def features(self, frame: torch.Tensor, index: int) -> torch.Tensor:
        """DIFT features (C, h, w) of a frame (3, H, W): mean over `ensemble` noise draws of the frame's own random
        stream."""
        settings = self.settings
        assert settings.timestep is not None and settings.ensemble is not None
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + index) % 2**63)
        posterior = self.backbone.posterior(frame[None])
        self._encodings[index] = (frame, posterior.mode())
        if len(self._encodings) > MAX_LATENTS:
            self._encodings.pop(next(iter(self._encodings)))
        latents = torch.cat([posterior.sample(generator) for _ in range(settings.ensemble)])
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return self.features_from_noise(latents, noise)

    def features_from_noise(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Features (C, h, w) of latents (1 or E, C, h, w) under given noise (E, C, h, w)."""
        settings = self.settings
        assert settings.timestep is not None and settings.block is not None
        noisy = self.backbone.add_noise(latents, noise, settings.timestep)
        return self.backbone.features(noisy, settings.timestep, self.editor.context, settings.block).float().mean(0)

    def correspond(self, frame: torch.Tensor, index: int) -> Correspondence:
        """Correspondence of a frame (3, H, W) with the anchor, or with all of them (`join_matches`)."""
        return join_matches([self._correspond(frame, index), *(one.correspond(frame, index) for one in self._others)])

    def _correspond(self, frame: torch.Tensor, index: int) -> Correspondence:
        with self.editor.watch.part("features"):
            if self._anchor_features is None:
                self._anchor_features = self.features(self._anchor, self.anchor_index)
            track, anchor = self._track, self._anchor_features
            if index == self.anchor_index and torch.equal(frame, self._anchor):
                target = anchor
            else:
                target = track.features(index, frame) if track else self.features(frame, index)
            near = search_near(track.places(index, anchor), track.size_hw) if track else None
        with self.editor.watch.part("matching"):
            adaptive, radius = self.settings.k == "adaptive", self.settings.neighbourhood
            arguments = (target, anchor, self.editor.grids, self.settings.tokens)
            return match_features(*arguments, adaptive=adaptive, radius=radius, near=near)

    def edit(
        self,
        frames: torch.Tensor,
        indices: Sequence[int],
        matches: Sequence[Correspondence] | None = None,
        masks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Frames (B, 3, H, W) in the reference's look, float32 in [0, 1]. Arguments and errors: `edit_latents`."""
        clean = self.edit_latents(frames, indices, matches, masks)
        with self.editor.watch.part("decode"):
            return self.backbone.decode(clean).cpu()

    def edit_latents(
        self,
        frames: torch.Tensor,
        indices: Sequence[int],
        matches: Sequence[Correspondence] | None = None,
        masks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Clean latents (B, C, h, w) of frames (B, 3, H, W) in the reference's look: what `edit` decodes.

        Args:
            indices: places of the frames in the clip.
            matches: their correspondences; computed when None.
            masks: object masks (B, 1, H, W); outside, self-attention is that of the frame's inversion.
        Raises: ShapeError when frames, matches or masks do not fit the anchor or each other.
        """
        check_images("frames", frames)
        if frames.shape[1:] != self._anchor.shape:
            raise ShapeError(
                f"frames: expected the anchor's size {tuple(self._anchor.shape)}, got {tuple(frames.shape[1:])}."
            )
        if len(indices) != len(frames) or (matches is not None and len(matches) != len(frames)):
            raise ShapeError(f"indices, matches: expected one of each a frame, got {len(indices)}.")
        if masks is not None:
            check_shape("masks", masks, (len(frames), 1, *frames.shape[-2:]))
        if matches is None and self.settings.k != -1:
            matches = [self.correspond(frame, index) for frame, index in zip(frames, indices, strict=True)]
        with self.editor.watch.part("encode"):
            latents = torch.cat([self._encode(frame, index) for frame, index in zip(frames, indices, strict=True)])
        return self.editor.edit_latents(latents, self.editor.selections(matches or [], masks), masks, frames=indices)

    def _encode(self, frame: torch.Tensor, index: int) -> torch.Tensor:
        """Latents (1, C, h, w) of a frame; not computed again where its features were read a moment ago."""
        source, latents = self._encodings.pop(index, (None, None))
        if source is None or latents is None or not torch.equal(source, frame):
            return self.backbone.encode(frame[None])
        return latents
