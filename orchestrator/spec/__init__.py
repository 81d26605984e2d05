"""What a person writes: job files and cluster profiles, how they are read, and what their errors say."""
