"""From a configuration to a session: everything loaded and checked, nothing trained."""
