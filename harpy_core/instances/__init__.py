"""The label pass: which instances there are, and where."""
