"""A run: its configuration, its folder, its progress and its report."""
