"""Grounding DINO, taken apart: the open-set detector that finds whatever a phrase names."""

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.detector import Detector
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.ops.deform_attn import ms_deform_attn
from gdino_lib.weights import load

__version__ = "0.1.0"
__all__ = ["Detector", "GroundingDINO", "GroundingDINOConfig", "load", "ms_deform_attn"]
