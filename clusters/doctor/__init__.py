"""What keeps jobs from running on a cluster."""
