"""Readers of the files of microscopes and slide scanners: a file for each library.

Each has ``names(path)``, the names of the images in a file, and ``scene(path, number)``, one of
them. Which endings it reads is known to `harpy_core.raster.formats.microscopes`.
"""
