"""Pixels and rectangles: grids, runs, labels and reused buffers, without input or output."""
