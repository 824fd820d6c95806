"""Convert annotation formats into each other, through one record type; needs neither torch nor gdino_lib."""

from data_prep.records import Box, Dataset, ImageRecord

__version__ = "0.1.0"
__all__ = ["Box", "Dataset", "ImageRecord"]
