"""Methods and seeds made to run for a comparison."""
