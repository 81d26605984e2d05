"""What is done with a trained model: predictions for files of rows, and its metrics over other data."""
