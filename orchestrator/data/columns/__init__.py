"""What a source's columns mean: which make which tensor, and their values as arrays. Decided here and nowhere else."""
