"""The drawn practice set: cartoon people with face masks, and planted faults."""
