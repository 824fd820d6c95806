"""Training: what a prediction is compared with, matching, losses, denoising."""
