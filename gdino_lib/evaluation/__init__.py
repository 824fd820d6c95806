"""How good a detector is, where it errs, and how far its scores can be trusted."""

from gdino_lib.companion import require_data_prep

require_data_prep()
