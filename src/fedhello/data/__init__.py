"""Data: where it comes from, how it is split over clients, how it becomes batches."""
