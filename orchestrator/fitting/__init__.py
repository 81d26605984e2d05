"""Whether a plan fits its device: one of its ranks takes steps on tensors without memory, and what it holds is counted."""
