"""Data: sources, splits and partitions, encoding and batches."""
