"""A view config of Vitessce: an image, its labels and its table in views that are linked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VERSION = "1.0.16"
"""Version of the config's schema."""

COLOURS = ((0, 255, 255), (255, 0, 255), (255, 255, 0))
"""Red, green and blue of the channels that are drawn."""

LARGEST_LABEL = 2**22
"""Largest label that Vitessce colours: it looks up a label's colour in 2048 × 2048 places."""

_OBS_TYPE, _FEATURE_TYPE = "cell", "channel"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a config says of an image.

    Attributes
    ----------
    title
        Name of the image.
    statistic
        Name of the statistic by which cells are coloured.
    features
        Names of the table's columns.
    sets
        Names of the table's columns of categories; Vitessce needs one to colour what is selected.
    windows
        Values shown black and white of each channel that is drawn, by its number in the image.
    segmentation
        Whether the labels are drawn.
    heatmap
        Whether all values of the table are.
    scatter
        Title of the scatter plot.
    begin
        Place (x, y) to begin at, and the zoom there; None shows the whole image.
    crops
        Properties of the view of crops.
    """

    title: str
    statistic: str
    features: Sequence[str]
    sets: Sequence[str]
    windows: Mapping[int, tuple[float, float]]
    segmentation: bool
    heatmap: bool
    scatter: str
    begin: tuple[float, float, float] | None
    crops: Mapping[str, Any]


class _Space:
    """Values that views share, each in a scope of its kind."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self.layers: dict[str, list[str]] = {}
        self.by: dict[str, dict[str, dict[str, Any]]] = {}

    def scope(self, kind: str, value: Any) -> str:
        """Add a value; return the name of its scope."""
        scopes = self.values.setdefault(kind, {})
        name = chr(ord("A") + len(scopes))
        scopes[name] = value
        return name

    def scopes(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Add values of several kinds; return the scope of each."""
        return {kind: self.scope(kind, value) for kind, value in values.items()}

    def part(self, kind: str, scopes: Mapping[str, Any]) -> str:
        """Add a layer or a channel, which has values in some scopes; return its own."""
        name = self.scope(kind, "__dummy__")
        for key, scope in scopes.items():
            self.by.setdefault(kind, {}).setdefault(key, {})[name] = scope
        return name


def view_config(shown: Shown) -> dict[str, Any]:
    """Make a view config, whose addresses are relative to its own."""
    space = _Space()
    alike = space.scopes(
        {
            "obsType": _OBS_TYPE,
            "featureType": _FEATURE_TYPE,
            "featureValueType": shown.statistic,
            "featureSelection": [shown.features[0]],
            "featureValueColormap": "viridis",
            "featureValueColormapRange": [0.0, 1.0],
            "obsColorEncoding": "geneSelection",
            "obsHighlight": None,
            "obsSetSelection": None,
            "obsSetColor": None,
            "additionalObsSets": None,
        }
    )
    layers = {"imageLayer": [_image_layer(space, shown)]}
    if shown.segmentation:
        layers["segmentationLayer"] = [_segmentation_layer(space, alike)]
    views = {**space.scopes({"dataset": "A"}), **alike}
    spatial = {
        **views,
        "metaCoordinationScopes": [space.scope("metaCoordinationScopes", layers)],
        "metaCoordinationScopesBy": [space.scope("metaCoordinationScopesBy", space.by)],
    }
    if shown.begin is not None:
        x, y, zoom = shown.begin
        spatial |= space.scopes({"spatialZoom": zoom, "spatialTargetX": x, "spatialTargetY": y})
    scatter = {**views, **space.scopes({"embeddingType": shown.scatter})}
    return {
        "version": VERSION,
        "name": shown.title,
        "description": "",
        "datasets": [{"uid": "A", "name": shown.title, "files": _files(shown)}],
        "coordinationSpace": space.values,
        "layout": _layout(shown, spatial, scatter, views),
        "initStrategy": "auto",
    }


def _image_layer(space: _Space, shown: Shown) -> str:
    channels = [
        space.part(
            "imageChannel",
            space.scopes(
                {
                    "spatialTargetC": channel,
                    "spatialChannelColor": list(colour),
                    "spatialChannelWindow": list(window),
                    "spatialChannelVisible": True,
                    "spatialChannelOpacity": 1.0,
                }
            ),
        )
        for (channel, window), colour in zip(shown.windows.items(), COLOURS, strict=False)
    ]
    layer = {
        "fileUid": "image",
        "photometricInterpretation": "BlackIsZero",
        "spatialLayerVisible": True,
        "spatialLayerOpacity": 1.0,
    }
    return space.part("imageLayer", {**space.scopes(layer), "imageChannel": channels})


def _segmentation_layer(space: _Space, alike: Mapping[str, str]) -> str:
    """Cells are pointed at, selected and coloured as in all other views."""
    channel = {
        "spatialTargetC": 0,
        "spatialChannelColor": [255, 255, 255],
        "spatialChannelVisible": True,
        "spatialChannelOpacity": 0.5,
        "spatialSegmentationFilled": True,
        "spatialSegmentationStrokeWidth": 1.0,
    }
    cells = space.part("segmentationChannel", {**space.scopes(channel), **alike})
    layer = {"fileUid": "labels", "spatialLayerVisible": True, "spatialLayerOpacity": 1.0}
    return space.part("segmentationLayer", {**space.scopes(layer), "segmentationChannel": [cells]})


def _files(shown: Shown) -> list[dict[str, Any]]:
    cells = {"obsType": _OBS_TYPE}
    sets = [{"name": name, "path": f"obs/{name}"} for name in shown.sets]
    found: list[tuple[str, str, Any, dict[str, str]]] = [
        ("image.ome-zarr", "image", {}, {"fileUid": "image"}),
        ("obsSegmentations.ome-zarr", "labels", {}, {"fileUid": "labels", **cells}),
        (
            "obsFeatureMatrix.anndata.zarr",
            "table",
            {"path": "X"},
            {**cells, "featureType": _FEATURE_TYPE, "featureValueType": shown.statistic},
        ),
        (
            "obsEmbedding.anndata.zarr",
            "table",
            {"path": "obsm/scatter"},
            {**cells, "embeddingType": shown.scatter},
        ),
        ("obsSets.anndata.zarr", "table", sets, cells),
    ]
    return [
        {
            "fileType": kind,
            "url": f"store/{place}",
            **({"options": options} if options else {}),
            "coordinationValues": values,
        }
        for kind, place, options, values in found
        if shown.segmentation or place != "labels"
    ]


def _layout(
    shown: Shown,
    spatial: Mapping[str, Any],
    scatter: Mapping[str, Any],
    views: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Views on a grid of 12 columns and 12 rows; without a heat map the crops take its place."""
    crops = (0, 7, 9, 5)
    placed: list[tuple[str, Mapping[str, Any], tuple[int, ...], dict[str, Any]]] = []
    if shown.heatmap:
        crops = (5, 7, 4, 5)
        placed.append(("heatmap", views, (0, 7, 5, 5), {"transpose": True}))
    placed += [
        ("spatialBeta", spatial, (0, 0, 5, 7), {"title": shown.title}),
        ("scatterplot", scatter, (5, 0, 4, 7), {"title": shown.scatter}),
        ("crops", views, crops, dict(shown.crops)),
        ("layerControllerBeta", spatial, (9, 0, 3, 6), {}),
        ("featureList", views, (9, 6, 3, 3), {"title": f"{shown.statistic} of"}),
        ("obsSets", views, (9, 9, 3, 3), {"title": "Sets of cells"}),
    ]
    return [
        {
            "component": component,
            "coordinationScopes": dict(scopes),
            **dict(zip("xywh", place, strict=True)),
            **({"props": props} if props else {}),
        }
        for component, scopes, place, props in placed
    ]
