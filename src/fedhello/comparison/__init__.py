"""Run several methods with several seeds for a comparison."""
