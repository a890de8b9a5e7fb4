"""Crops, one of every instance, written to a store and read back."""
