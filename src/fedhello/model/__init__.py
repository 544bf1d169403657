"""The foundation model: loading it, finding its blocks, its adapter and its head."""
