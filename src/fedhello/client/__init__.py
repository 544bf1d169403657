"""What a client does: local training under its allocation, and measuring what that costs."""
