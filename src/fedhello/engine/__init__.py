"""Engines carry tasks to clients and contributions back."""
