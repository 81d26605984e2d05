"""A person's own data, on its way to where the jobs of a cluster read it."""
