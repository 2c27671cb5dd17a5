"""The host's MODEL, VAE and CONDITIONING as `backbones.surface.GuidedDenoiser`: prompts, ControlNets, LoRA and patches
of the host apply, because each pass goes through the host's own guider.

A whole job runs inside one sampling of the host (`sampling`), which is what prepares CONDITIONING and ControlNets; the
steps themselves are the core's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.model_management as model_management
import comfy.samplers
import torch

from ...zero2hero_core.attention.features import FeatureGuidance
from ...zero2hero_core.attention.guidance import Guidance, Pass
from ...zero2hero_core.backbones.surface import GuidedDenoiser
from ...zero2hero_core.checks import InputError, Zero2HeroError
from .guidance_hooks import GuidanceHooks, Guided, refuse_context_windows
from .services import check_cancel
from .unet import HostUNet
from .unet_checks import read_context

Result = TypeVar("Result")


class HostDenoiser(HostUNet):
    """MODEL, VAE, positive and negative CONDITIONING for the frames of a clip.

    Args: frames: the numbers of the frames that may be painted; ControlNets must show one picture, or one for each of
    them in the same order.
    Raises: InputError, with the socket's name, for anything but SD 1.x / 2.x parts that belong together.
    """

    def __init__(
        self,
        model: Any,
        vae: Any,
        positive: Any,
        negative: Any,
        *,
        guidance_scale: float,
        frames: Sequence[int],
        on_call: Callable[[], None] | None = None,
    ) -> None:
        self._user_model, self._hooks = model, GuidanceHooks()
        self._guider: Any = None
        self._extra_args: dict[str, Any] = {}
        super().__init__(model, vae, positive, on_call=on_call, socket="positive")
        read_context(negative, model, "negative")
        refuse_context_windows(model.model_options)
        self._places = {frame: place for place, frame in enumerate(frames)}
        self._positive, self._hints = _with_own_controls(positive, "positive", len(frames))
        self._negative, more = _with_own_controls(negative, "negative", len(frames))
        self._hints |= more
        self._scale_of_guidance, self._rows = guidance_scale, tuple[int, ...]()

    def sampling(self, work: Callable[[], Result], latent_hw: tuple[int, int]) -> Result:
        """The result of `work`, done inside a sampling of the host for latents of a size."""
        model = self._user_model.clone()
        self._hooks.install(model)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self._positive, self._negative)
        guider.set_cfg(self._scale_of_guidance)
        channels = model.model.latent_format.latent_channels
        empty = torch.zeros(1, channels, *latent_hw)
        sigmas = self._sigmas.flip(0)
        sampler = _Work(self, work)
        guider.sample(empty, empty, sampler, sigmas, disable_pbar=True, seed=0)
        result: Result = sampler.result[0]
        return result

    def latent_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the latents of pictures of a size."""
        return size_hw[0] // self.factor, size_hw[1] // self.factor

    def begin(self, guider: Any, extra_args: dict[str, Any]) -> None:
        """Passes go through this guider from now on."""
        self._guider, self._extra_args, self._rows, self._ready = guider, extra_args, (), 0

    def end(self) -> None:
        """No passes from now on."""
        self._guider, self._extra_args = None, {}

    @torch.no_grad()
    def guided_noise(
        self,
        latents: torch.Tensor,
        now: Pass,
        guidances: Sequence[Guidance] = (),
        features: Sequence[FeatureGuidance] = (),
        *,
        controlled: bool = True,
    ) -> torch.Tensor:
        """See `GuidedDenoiser.guided_noise`."""
        if self._guider is None:
            raise Zero2HeroError("a pass was asked for outside a sampling of the host.")
        check_cancel()
        self._load_for(latents)
        self._show(now.frames)
        latents = latents.float()
        sigma = self._sigmas[now.timestep].to(latents)
        noisy = latents * (sigma**2 + 1).sqrt()
        conds = self._guider.conds
        if not controlled:
            self._guider.conds = {
                name: [{key: value for key, value in one.items() if key != "control"} for one in entries]
                for name, entries in conds.items()
            }
        try:
            with self._hooks.guide(Guided(now, guidances, features)):
                clean: torch.Tensor = self._guider(noisy, sigma.expand(len(latents)), **self._extra_args)
        finally:
            self._guider.conds = conds
        self._tell_call()
        eps: torch.Tensor = (noisy - clean.to(noisy)) / sigma
        return eps

    def _load_for(self, latents: torch.Tensor) -> None:
        """The VAE may have pushed UNet and ControlNets out."""
        cells = latents.shape[0] * latents.shape[-2] * latents.shape[-1]
        if cells > self._ready:
            controls = [
                one["control"] for entries in self._guider.conds.values() for one in entries if "control" in one
            ]
            models = [net for control in dict.fromkeys(controls) for net in control.get_models()]
            model = self._guider.model_patcher
            shape = [2 * latents.shape[0], *latents.shape[1:]]
            model_management.load_models_gpu([model, *models], memory_required=model.memory_required(shape))
            self._ready = cells

    def _show(self, rows: tuple[int, ...]) -> None:
        """Give every ControlNet the pictures of these frames."""
        if rows == self._rows:
            return
        for control, hint in self._hints.items():
            if len(hint) > 1:
                control.cond_hint_original, control.cond_hint = hint[[self._places[row] for row in rows]], None
        self._rows = rows


class _Work(comfy.samplers.Sampler):  # type: ignore[misc]
    """A sampler of the host that does our work where the host would take its steps."""

    def __init__(self, denoiser: HostDenoiser, work: Callable[[], Any]) -> None:
        self.denoiser, self.work = denoiser, work
        self.result: list[Any] = []

    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        latent_image: Any = None,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """The work; of the latents that the host asked for there are none."""
        self.denoiser.begin(model_wrap, extra_args)
        try:
            self.result.append(self.work())
        finally:
            self.denoiser.end()
        return torch.zeros_like(noise)


def _with_own_controls(conditioning: Any, socket: str, frames: int) -> tuple[list[Any], dict[Any, torch.Tensor]]:
    """The conditioning with copies of its ControlNets, which other nodes share, and the pictures that they show.

    Raises: InputError unless each shows one picture or as many as there are frames.
    """
    if not conditioning:
        raise InputError(f"{socket}: expected one entry, got none; connect CLIP Text Encode.")
    hints: dict[Any, torch.Tensor] = {}
    copies: dict[Any, Any] = {}

    def copy_of(control: Any) -> Any:
        if control is None:
            return None
        if control not in copies:
            own = control.copy()
            own.set_previous_controlnet(copy_of(control.previous_controlnet))
            hint = own.cond_hint_original
            if hint is not None:
                if len(hint) not in (1, frames):
                    raise InputError(
                        f"{socket}: expected a ControlNet that shows 1 or {frames} pictures, as many as frames has, "
                        f"got {len(hint)}; make its picture from the same frames."
                    )
                hints[own] = hint
            copies[control] = own
        return copies[control]

    entries = []
    for tokens, extras in conditioning:
        more = {"control": copy_of(extras["control"])} if extras.get("control") is not None else {}
        entries.append([tokens, extras | more])
    return entries, hints


if TYPE_CHECKING:
    _surface: type[GuidedDenoiser] = HostDenoiser
