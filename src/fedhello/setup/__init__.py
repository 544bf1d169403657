"""Prepare a session from a configuration: everything is loaded and checked, nothing is trained."""
