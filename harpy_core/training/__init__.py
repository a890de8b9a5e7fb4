"""Crops for training: shuffled, shared evenly among ranks, normalised."""
