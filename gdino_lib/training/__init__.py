"""Training: matching, losses, denoising; the loop with its checkpoints, adapters and logs; the doctor before it."""

from gdino_lib.companion import require_data_prep

require_data_prep()
