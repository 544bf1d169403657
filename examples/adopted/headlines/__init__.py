"""headlines: a Flower app with PyTorch."""
