"""Tasks, where they run, and how far they are."""
