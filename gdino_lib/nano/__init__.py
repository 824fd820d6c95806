"""The embedded model: its scenes, its first weights, its recipe."""
