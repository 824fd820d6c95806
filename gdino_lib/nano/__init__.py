"""The embedded model: its scenes, its first weights, its recipe."""

from gdino_lib.companion import require_data_prep

require_data_prep()
