"""Pictures for people: the benchmark's panels, the tissue, its crops and its table."""

from harpy_core.figures.composites import tissue
from harpy_core.figures.galleries import gallery
from harpy_core.figures.heatmaps import heatmap
from harpy_core.figures.sweeps import sweep_panels

__all__ = ["gallery", "heatmap", "sweep_panels", "tissue"]
