"""Writing our results to disk, so that they stay whole."""
