"""What carries allocations to clients and updates back."""
