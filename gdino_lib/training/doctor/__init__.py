"""Checks before training: faults of the data, of the gradients and of learning."""
