"""One reader and one writer for each annotation format."""
