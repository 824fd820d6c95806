"""Other people's formats -> our records -> CSV, COCO, ODVG and Pascal VOC; needs neither torch nor gdino_lib."""

from data_prep.records import Box, Dataset, ImageRecord

__version__ = "0.1.0"
__all__ = ["Box", "Dataset", "ImageRecord"]
