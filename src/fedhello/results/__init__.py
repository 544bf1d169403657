"""Finished runs: read, compared and used."""
