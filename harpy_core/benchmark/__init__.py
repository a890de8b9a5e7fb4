"""Measured runs of both jobs, and their measurement."""
