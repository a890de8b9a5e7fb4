"""Partials and statistics, declared, and the sums that moments are finished from."""
