"""Weight files: every layout that people have, read and written with strict accounting."""
