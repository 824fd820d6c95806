"""How good a detector is, where it errs, and how far its scores can be trusted."""
