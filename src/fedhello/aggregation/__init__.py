"""How updates combine: strategies that turn updates into the next adapter."""
