"""Which process reads what, and when: rows by place, chunks of steps, and the streams that a loop takes them from."""
