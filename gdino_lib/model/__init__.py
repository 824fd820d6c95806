"""The parts of Grounding DINO, one file each."""
