"""An image, its labels and its table in napari, where that is installed."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.errors import InputError

if TYPE_CHECKING:
    from harpy_core.raster import Raster

_PAGE = "give --output to write a page for a browser"
_CONTRAST = (1.0, 99.5)
"""Percentiles between which a channel is shown."""
_SAMPLE = 512
"""Side of the part from whose pixels the percentiles are taken."""


def is_there() -> bool:
    """Whether napari is installed, and there is a display."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(display) and importlib.util.find_spec("napari") is not None


def opened(raster: Raster, table: str | os.PathLike[str], title: str, **options: Any) -> Any:
    """Make a viewer of an image: a layer a channel, and the labels with their statistics.

    Channels are read as the viewer asks for them. The labels are coloured by the table's first
    statistic in the first channel. Their features are that statistic in every channel, and pixels:
    napari shows those of the instance under the pointer.

    Parameters
    ----------
    raster
        The image and its labels.
    table
        Folder of its table.
    title
        Title of the window.
    options
        Further arguments of ``napari.Viewer``.

    Returns
    -------
    napari.Viewer

    Raises
    ------
    InputError
        napari is not installed, or there is no display.
    """
    try:
        import napari
    except ImportError as error:
        raise InputError(
            f"napari is not installed: pip install 'napari[all]', or {_PAGE}"
        ) from error
    if not (is_there() or options.get("show") is False):
        raise InputError(f"there is no display to open napari on: {_PAGE}")
    viewer = napari.Viewer(title=title, **options)
    colours = ("cyan", "magenta", "yellow", "gray")
    for number, name in enumerate(raster.channels):
        viewer.add_image(
            _Channel(raster.image, number),
            name=name,
            colormap=colours[number % len(colours)],
            blending="additive",
            contrast_limits=_limits(raster.image, number),
            visible=number < 3,
            multiscale=False,
        )
    features = _features(table)
    colours_of = napari.utils.DirectLabelColormap(color_dict=_colours(features))
    viewer.add_labels(
        raster.labels, name="labels", features=features, colormap=colours_of, opacity=0.6
    )
    return viewer


class _Channel:
    """One channel of an image, read when it is sliced."""

    def __init__(self, image: Any, number: int) -> None:
        self._image, self._number = image, number
        self.shape, self.dtype = tuple(image.shape[1:]), np.dtype(image.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        return np.asarray(self._image[(self._number, *index)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


def _limits(image: Any, channel: int) -> tuple[float, float]:
    middle = [
        slice(max((n - _SAMPLE) // 2, 0), (n + _SAMPLE) // 2) if place > 1 else n // 2
        for place, n in zip(range(4 - image.ndim + 1, 4), image.shape[1:], strict=True)
    ]
    part = np.asarray(image[(channel, *middle)], np.float64)
    low, high = np.nanpercentile(part, _CONTRAST)
    return float(low), float(max(high, low + 1e-6))


def _features(path: str | os.PathLike[str]) -> Any:
    """Statistics by label: napari joins them by the column ``index``."""
    import anndata

    table = anndata.read_zarr(path)
    features = table.to_df()
    features.insert(0, "index", table.obs["instance_id"].to_numpy())
    features["pixels"] = table.obs["count"].to_numpy()
    return features.reset_index(drop=True)


def _colours(features: Any) -> dict[int | None, Any]:
    """Colour of each label, by the feature after its own number; others have none."""
    from matplotlib import colormaps

    values = features.iloc[:, 1].to_numpy(np.float64)
    low, high = np.nanpercentile(values, [1, 99]) if len(values) else (0.0, 1.0)
    shares = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colours = colormaps["viridis"](np.nan_to_num(shares))
    found: dict[int | None, Any] = dict(zip(features["index"].tolist(), colours, strict=True))
    return {**found, None: (0.0, 0.0, 0.0, 0.0)}


def run() -> None:
    """Show the windows until the last one is closed."""
    import napari

    napari.run()
