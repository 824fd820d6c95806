"""Torch data sets over the records of `data_prep`, with the transforms of their images."""

from gdino_lib.companion import require_data_prep

require_data_prep()
