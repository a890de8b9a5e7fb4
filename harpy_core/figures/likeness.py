"""Synthetic tissue beside real sections."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from harpy_core.datasets.likeness import Measures, measure
from harpy_core.figures import style
from harpy_core.figures.composites import composite, fullest, outlined

_DETAIL = 320


@dataclass(frozen=True, slots=True)
class Section:
    """A section to compare.

    Attributes
    ----------
    name
        Name in the figure.
    image
        Pixels, (c, y, x), of an unsigned integer type.
    labels
        Labels, (y, x); 0 is background.
    shown
        Numbers of up to three channels that its picture is made of.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    shown: tuple[int, ...]


def sections_side_by_side(sections: Sequence[Section], out_png: str | os.PathLike[str]) -> None:
    """Draw a detail of each section, and the figures by which they are compared.

    Parameters
    ----------
    sections
        Sections, at most as many as the figures have colours.
    out_png
        Path of the picture.
    """
    measured = [measure(section.image, section.labels) for section in sections]
    with style.applied():
        figure = style.new_figure(3.4 * len(sections) + 0.4, 8.2)
        style.add_title(
            figure,
            "Synthetic tissue beside real sections",
            f"details of {_DETAIL} × {_DETAIL} pixels with the outlines of the cells;"
            " one line or dot a channel",
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=(3.55, 3.2))
        above, below = parts
        pictures = above.subplots(1, len(sections), squeeze=False)[0]
        for axes, section in zip(pictures, sections, strict=True):
            _show(axes, section)
        panels = below.subplots(1, 4, width_ratios=(1.25, 1, 0.8, 1.1))
        _draw_histograms(panels[0], sections)
        _draw_ratios(panels[1], measured)
        _draw_density(panels[2], measured)
        _draw_areas(panels[3], measured)
        handles = [
            panels[0].plot([], [], color=colour, linewidth=3)[0]
            for colour in style.SERIES[: len(sections)]
        ]
        names = [section.name for section in sections]
        below.legend(handles, names, loc="outside lower left", ncols=len(sections))
        style.save(figure, out_png)


def _show(axes: Axes, section: Section) -> None:
    picture = composite([section.image[channel] for channel in section.shown])
    detail = fullest(section.labels, _DETAIL)
    axes.imshow(outlined(picture, section.labels, detail), interpolation="antialiased")
    axes.set_title(section.name)
    style.bare(axes)


def _draw_histograms(axes: Axes, sections: Sequence[Section]) -> None:
    edges = np.geomspace(100, 2**16, 70)
    for section, colour in zip(sections, style.SERIES, strict=False):
        for plane in section.image:
            share = np.histogram(plane, edges)[0] / plane.size
            axes.stairs(100 * share, edges, color=colour, alpha=0.75, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_title("Pixel values")
    axes.set_xlabel("counts, log scale; zeros left out")
    axes.set_ylabel("% of the pixels")


def _draw_ratios(axes: Axes, measured: Sequence[Measures]) -> None:
    for number, (one, colour) in enumerate(zip(measured, style.SERIES, strict=False)):
        for codec, ratios in enumerate((one.lz4, one.zstd)):
            place = codec + 0.22 * (number - (len(measured) - 1) / 2)
            scatter = np.linspace(-0.05, 0.05, len(ratios))
            axes.plot(place + scatter, ratios, "o", color=colour, markersize=4, alpha=0.75, mew=0)
    axes.set_xticks([0, 1], ["LZ4", "zstd"])
    axes.set_xlim(-0.5, 1.5)
    axes.set_ylim(1, None)
    axes.grid(axis="y")
    axes.set_title("Compression ratio")


def _draw_density(axes: Axes, measured: Sequence[Measures]) -> None:
    for number, (one, colour) in enumerate(zip(measured, style.SERIES, strict=False)):
        axes.bar(number, one.cells_per_megapixel, color=colour, width=0.62)
        axes.annotate(
            f"{one.cells_per_megapixel:,.0f}",
            (number, one.cells_per_megapixel),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            size=8.5,
        )
    axes.set_xticks([])
    axes.margins(y=0.12)
    axes.set_title("Cells per megapixel")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_areas(axes: Axes, measured: Sequence[Measures]) -> None:
    largest = max(np.percentile(one.areas, 99.5) for one in measured)
    edges = np.geomspace(20, largest, 32)
    for one, colour in zip(measured, style.SERIES, strict=False):
        share = np.histogram(one.areas, edges)[0] / len(one.areas)
        axes.stairs(100 * share, edges, color=colour, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xticks([30, 100, 300, 1000])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(20, largest)
    axes.set_ylim(0, None)
    axes.set_title("Area of the cells")
    axes.set_xlabel("pixels, log scale")
    axes.set_ylabel("% of the cells")
