"""The foundation model: loading, blocks, adapter and head."""
