"""What happens when something goes wrong: what it was, and whether trying again can help."""
