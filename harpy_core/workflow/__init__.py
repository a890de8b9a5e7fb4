"""The package's side of the workflow's rules and scripts."""
