"""Crops as training wants them: shuffled, shared evenly over ranks, normalised."""
