"""Many machines: Flower, the server, and clients with data of their own."""
