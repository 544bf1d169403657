"""The configuration of a run: its keys, their checks, and the messages about wrong ones."""
