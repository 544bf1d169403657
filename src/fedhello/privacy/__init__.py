"""What may leave a client: sums that a server learns only as a whole."""
