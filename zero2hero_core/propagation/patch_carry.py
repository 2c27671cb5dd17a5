"""One frame carried from a key picture by patches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..checks import check_images, check_shape
from .guides import GuideWeights, Pair, frame_guides, places
from .patch_synthesis import PatchSettings, Synthesis, synthesize


@dataclass(frozen=True)
class CarrySettings:
    """patches: how to synthesise; guides: what frames must agree in."""

    patches: PatchSettings = field(default_factory=PatchSettings)
    guides: GuideWeights = field(default_factory=GuideWeights)


def carry_patches(
    key_picture: torch.Tensor,
    key_frame: torch.Tensor,
    target_frame: torch.Tensor,
    flow: torch.Tensor,
    previous: torch.Tensor | None = None,
    settings: CarrySettings | None = None,
    *,
    mask: torch.Tensor | None = None,
    masks: Pair | None = None,
    features: Pair | None = None,
    seed: int = 0,
) -> Synthesis:
    """The key picture, carried to a target frame patch by patch; the search starts where the flow points.

    Args:
        key_picture: the edited key, (3, H, W) in [0, 1].
        key_frame, target_frame: the original frames, (3, H, W) in [0, 1].
        flow: from target to key, (H, W, 2) in pixels, usually chained.
        previous: the result of the frame between, moved to this one; for the key's neighbour the key picture moved to
            it, or None, which leaves out the temporal guide.
        mask: (H, W) in [0, 1], where the edit belongs in the target frame; outside it the target frame stays bit for
            bit, and a value between mixes. None carries everything.
        masks, features: further guides, see `frame_guides`.
        seed: of the search.
    Returns: picture, field and error (`Synthesis`). Nothing depends on other frames, threads or batches.
    Raises: ShapeError when sizes differ; InputError when the frames are too small for the patch.
    """
    settings = settings or CarrySettings()
    check_shape("key_picture", key_picture, (3, "H", "W"))
    check_images("key_picture", key_picture[None])
    size_hw = (int(key_picture.shape[-2]), int(key_picture.shape[-1]))
    check_shape("key_frame", key_frame, (3, *size_hw))
    if previous is not None:
        check_shape("previous", previous, (3, *size_hw))
    guides = frame_guides(
        key_frame,
        target_frame,
        flow,
        settings.guides,
        temporal=None if previous is None else Pair(key_picture, previous),
        masks=masks,
        features=features,
    )
    start = places(size_hw, flow.device).permute(1, 2, 0) + flow
    result = synthesize(key_picture, guides, settings.patches, field=start, mask=mask, seed=seed)
    if mask is None:
        return result
    share = mask.to(result.picture).clamp(0, 1)
    mixed = torch.lerp(target_frame.to(result.picture), result.picture, share)
    picture = torch.where(share > 0, mixed, target_frame.to(result.picture))
    return Synthesis(torch.where(share < 1, picture, result.picture), result.field, result.error)
