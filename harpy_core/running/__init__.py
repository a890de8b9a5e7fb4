"""Tasks, the workers that run them, and their progress."""
