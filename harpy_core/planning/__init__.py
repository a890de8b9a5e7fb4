"""Planning before anything runs: figures, refusals, and their display."""
