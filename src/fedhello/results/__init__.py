"""Finished runs: read, put side by side, and used."""
