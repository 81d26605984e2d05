"""What backends have in common: packages that travel, records from afar, names, retries."""
