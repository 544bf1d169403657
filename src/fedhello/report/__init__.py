"""Output for people: pages, tables, figures and plans."""
