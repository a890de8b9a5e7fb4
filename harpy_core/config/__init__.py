"""The config: its models, its one-line errors, and the documents made from them."""
