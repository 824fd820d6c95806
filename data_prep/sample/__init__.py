"""The drawn face-mask sample, with planted faults."""
