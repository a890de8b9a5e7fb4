"""Repetition of a source to a target size."""
