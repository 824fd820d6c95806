"""The embedded model `nano`: its training data, its initial weights and its training recipe."""

from gdino_lib.companion import require_data_prep

require_data_prep()
