"""Torch data sets over `data_prep`'s records, and what happens to their images in training."""
