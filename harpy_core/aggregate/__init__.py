"""Statistics of every channel in every instance."""
