"""What a client does: local training under its allocation, and measuring the costs of it."""
