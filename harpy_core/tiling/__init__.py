"""A source repeated to a target size."""
