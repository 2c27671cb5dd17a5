"""Names of the sockets that are ours, and the category of the nodes.

CORRESPONDENCE carries a `zero2hero_core.correspondence_file.ClipCorrespondence`, FLOW a
`zero2hero_core.flow.clip.ClipFlows`. OPTICAL_FLOW is the host's own socket for a flow model, in hosts that have one.
"""

from __future__ import annotations

from .services import io

CATEGORY = "Zero-to-Hero"
CORRESPONDENCE = "CORRESPONDENCE"
HERO_LORA = "HERO_LORA"
FLOW = "FLOW"

Correspondence = io.Custom(CORRESPONDENCE)
HeroLora = io.Custom(HERO_LORA)
Flow = io.Custom(FLOW)
OpticalFlowModel = io.Custom("OPTICAL_FLOW")
