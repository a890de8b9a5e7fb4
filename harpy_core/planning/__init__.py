"""What is known before anything runs: figures, refusals, and what people are shown."""
