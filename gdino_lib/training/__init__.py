"""Training: matching, losses, denoising; the loop with its checkpoints, adapters and logs; the doctor before it."""
