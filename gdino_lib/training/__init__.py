"""Training: matching, losses and denoising; the loop with checkpoints, adapters and logs; the checks before training."""

from gdino_lib.companion import require_data_prep

require_data_prep()
