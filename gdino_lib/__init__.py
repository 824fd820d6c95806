"""Grounding DINO, taken apart: the open-set detector that finds whatever a phrase names."""

__version__ = "0.1.0"
