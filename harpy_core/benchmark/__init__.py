"""Measured runs of both jobs, and what measures them."""
