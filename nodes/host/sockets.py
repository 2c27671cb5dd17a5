"""Names of the sockets that are ours, and the category of the nodes.

CORRESPONDENCE carries a `zero2hero_core.correspondence_file.ClipCorrespondence`.
"""

from __future__ import annotations

from .services import io

CATEGORY = "Zero-to-Hero"
CORRESPONDENCE = "CORRESPONDENCE"
HERO_LORA = "HERO_LORA"

Correspondence = io.Custom(CORRESPONDENCE)
HeroLora = io.Custom(HERO_LORA)
