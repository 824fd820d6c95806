"""Grounding DINO, taken apart: the open-set detector that finds whatever a phrase names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdino_lib.config import GroundingDINOConfig
    from gdino_lib.detect.detector import Detector
    from gdino_lib.model.grounding_dino import GroundingDINO
    from gdino_lib.ops.deform_attn import ms_deform_attn
    from gdino_lib.weights.loading import load

__version__ = "0.1.0"
__all__ = ["Detector", "GroundingDINO", "GroundingDINOConfig", "load", "ms_deform_attn"]

# modules are imported at the first use of a name, so that `gdino --help` does not wait for torch
_MODULE_OF = {
    "Detector": "gdino_lib.detect.detector",
    "GroundingDINO": "gdino_lib.model.grounding_dino",
    "GroundingDINOConfig": "gdino_lib.config",
    "load": "gdino_lib.weights.loading",
    "ms_deform_attn": "gdino_lib.ops.deform_attn",
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'gdino_lib' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
