"""One level of the pyramid of patch synthesis."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .guides import Guide, places
from .patch_layout import Plane, pack, shrink, steps_per_level, write_plane


class Level:
    """Style, guides and mask at the size of a level, packed for the search.

    Attributes: size_hw, source_hw: of target and source here; style: (h, w, 3) float32; source, target: packed rows
    (`patch_layout`); steps: of an 8-bit level in them; mask: (H, W) bool, what is synthesised.
    """

    def __init__(
        self,
        style: torch.Tensor,
        guides: Sequence[Guide],
        mask: torch.Tensor | None,
        size_hw: tuple[int, int],
        full_source_hw: tuple[int, int],
        level: int,
        patch: int,
        style_weight: float,
    ) -> None:
        self.size_hw, self.full_source_hw, self.patch, self.style_weight = size_hw, full_source_hw, patch, style_weight
        self.source_hw = (full_source_hw[0] >> level, full_source_hw[1] >> level)
        small = shrink(style.detach().float(), self.source_hw)
        self.style = small.permute(1, 2, 0).contiguous()
        blank = small.new_zeros(()).expand(small.shape[0], *size_hw)
        pairs = [(Plane(small, style_weight), Plane(blank, style_weight))]
        pairs += [
            (Plane(shrink(guide.key, self.source_hw), guide.weight), Plane(shrink(guide.target, size_hw), guide.weight))
            for guide in guides
        ]
        self.steps = steps_per_level(pairs, patch)
        self.source = pack([source for source, _ in pairs], self.steps, patch)
        self.target = pack([target for _, target in pairs], self.steps, patch)
        if mask is None:
            self.mask = torch.ones(size_hw, dtype=torch.bool, device=style.device)
        else:
            self.mask = shrink(mask[None].to(style.device, torch.float32), size_hw)[0] > 0

    def field_at(self, field: torch.Tensor) -> torch.Tensor:
        """A field of the finest level at this one: the mean shift of each area, rounded."""
        full_hw = (int(field.shape[0]), int(field.shape[1]))
        shift = field.to(self.style.device, torch.float32).permute(2, 0, 1) - places(full_hw, field.device)
        shift = shrink(shift, self.size_hw)
        shrunk = [self.source_hw[1] / self.full_source_hw[1], self.source_hw[0] / self.full_source_hw[0]]
        start = places(self.size_hw, shift.device) + shift * shift.new_tensor(shrunk)[:, None, None]
        return self._inside(start.round().permute(1, 2, 0))

    def grown(self, field: torch.Tensor) -> torch.Tensor:
        """The field of the next coarser level at this one."""
        height, width = self.size_hw
        y = torch.arange(height, device=field.device)
        x = torch.arange(width, device=field.device)
        wide = field[(y // 2).clamp_max(field.shape[0] - 1)][:, (x // 2).clamp_max(field.shape[1] - 1)] * 2
        odd = torch.stack([(x % 2).expand(self.size_hw), (y % 2)[:, None].expand(self.size_hw)], -1)
        return self._inside(wide + odd)

    def _inside(self, field: torch.Tensor) -> torch.Tensor:
        height, width = self.source_hw
        x, y = field.unbind(-1)
        return torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], -1).int().contiguous()

    def show(self, picture: torch.Tensor) -> None:
        """Make a picture (H, W, 3) the style of the target, which patches are compared by."""
        write_plane(self.target, 0, Plane(picture.permute(2, 0, 1), self.style_weight), self.steps, self.patch)
