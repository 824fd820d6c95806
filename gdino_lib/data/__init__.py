"""Torch data sets over `data_prep`'s records, and what happens to their images in training."""

from gdino_lib.companion import require_data_prep

require_data_prep()
