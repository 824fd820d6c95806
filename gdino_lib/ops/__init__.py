"""The operation that everything waits for: multi-scale deformable attention."""
