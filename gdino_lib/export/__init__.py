"""A model as a file for other runtimes, and a detector that runs such a file without PyTorch."""
