"""Settings of Rerender-A-Video and FRESCO from the options of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...guidance.features import FeatureSettings
from ...guidance.parts import CrossFramePart, FeaturePart, FlowPart, Part
from ...guidance.pixel_target import PixelSettings
from ...guidance.settings import FrescoSettings, RerenderSettings

PARTS: dict[str, Part] = {
    "cross": CrossFramePart(),
    "temporal": FlowPart(spatial=0),
    "flow": FlowPart(),
    "features": FeaturePart(),
    "temporal features": FeaturePart(FeatureSettings(spatial=0)),
}
_BESIDE = ("parts", "foreground", "pixel")


def rerender_settings(options: Mapping[str, Any], seed: int) -> RerenderSettings:
    """Options: of `RerenderSettings`, and `pixel` of `PixelSettings`."""
    return RerenderSettings(seed=seed, pixel=PixelSettings(**options.get("pixel", {})), **_plain(options))


def fresco_settings(options: Mapping[str, Any], seed: int) -> FrescoSettings:
    """Options: of `FrescoSettings`, and `pixel` of `PixelSettings`."""
    return FrescoSettings(seed=seed, pixel=PixelSettings(**options.get("pixel", {})), **_plain(options))


def parts_of(options: Mapping[str, Any]) -> tuple[Part, ...]:
    """Option parts: names of `PARTS`."""
    return tuple(PARTS[name] for name in options.get("parts", ()))


def settled(method: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All settings of a row, also those that it leaves to their defaults, for JSON."""
    if method == "rerender":
        return asdict(rerender_settings(options, seed))
    parts = [asdict(part) for part in parts_of(options)]  # type: ignore[call-overload]  # all are dataclasses
    own = {"parts": parts, "foreground": bool(options.get("foreground", False))}
    return asdict(fresco_settings(options, seed)) | own


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as JSON has them, as tuples."""
    own = {name: value for name, value in options.items() if name not in _BESIDE}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
