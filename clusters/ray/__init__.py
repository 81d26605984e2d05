"""A running Ray cluster, through its Jobs API."""
