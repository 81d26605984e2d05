"""What will happen, decided purely: batches, steps, counts, memory, schedules."""
