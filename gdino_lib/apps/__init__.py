"""What people run: detection in files and films."""
