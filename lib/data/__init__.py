"""From annotation text and images to training batches."""
