"""The configuration of a run: its keys, what they mean, and what is said of a wrong one."""
