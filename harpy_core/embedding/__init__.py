"""Numbers that a model gives for each crop."""
