"""The sections of what is measured of instances and crops: statistics, and a model's numbers.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harpy_core.config.addresses import expanded
from harpy_core.config.section import CaseName, Positive, Section, Side, Unlike, key
from harpy_core.config.source import NAME_RULE, Address, Scale, Translation
from harpy_core.errors import InputError
from harpy_core.kernels.registry import AUTO
from harpy_core.statistics.asked import (
    ALL_NAMES,
    NAME_PATTERN,
    PAIRED,
    RINGS,
    Asked,
    of_section,
    resolved,
)
from harpy_core.statistics.declared import hint
from harpy_core.statistics.derived import parsed
from harpy_core.statistics.own import OWN_NAME, locate

Reach = Annotated[float, Field(ge=0, le=10_000)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


def _known(name: str) -> str:
    """Refuse names that are no statistic; functions are looked for, not imported."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise PydanticCustomError("statistic", "no such statistic; {hint}", {"hint": hint(name)})
    return _there(name)


def _there(name: str) -> str:
    """Look for a function of the user's own without importing its module."""
    if ":" in name:
        try:
            locate(name)
        except InputError as error:
            raise PydanticCustomError("together", "{told}", {"told": str(error)}) from None
    return name


if TYPE_CHECKING:
    StatisticName = str
else:
    StatisticName = Annotated[
        str,
        AfterValidator(_known),
        WithJsonSchema({"type": "string", "pattern": NAME_PATTERN}),
    ]


def _in_order(given: Any) -> Any:
    """Put the distances of a ring that names them in order."""
    if isinstance(given, dict) and given.keys() == {"inner", "outer"}:
        return [given["inner"], given["outer"]]
    return given


_REACH = {"type": "number", "minimum": 0, "maximum": 10_000}
Ring = Annotated[
    list[Reach],
    Field(min_length=2, max_length=2),
    BeforeValidator(_in_order),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": _REACH, "minItems": 2, "maxItems": 2},
                {
                    "type": "object",
                    "properties": {"inner": _REACH, "outer": _REACH},
                    "required": ["inner", "outer"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Layer(Section):
    """Other labels, measured in the same read: one of labels, expand, ring and without."""

    labels: Address | None = key(
        "Name of another labels element of the source, or the path or address of a label TIFF or "
        "Zarr array, or the path of polygons (.geojson, .parquet).",
        NAME_RULE,
        default=None,
    )
    scale: Scale | None = key(
        "Pixels of the image along one of these labels, as the source's labels_scale.",
        "a scale is a positive number, or one for each axis of the labels, or null",
        default=None,
    )
    translation: Translation | None = key(
        "Pixels of the image before the first of these labels, as the source's labels_translation.",
        "a translation is a number, or one for each axis of the labels, or null",
        default=None,
    )
    label_connected: bool = key(
        "Whether these labels are a binary mask, as the source's label_connected.",
        "use true or false",
        default=False,
    )
    of: str | None = key(
        "Name of the layer before it that it is made of; null: the source's labels.",
        NAME_RULE,
        default=None,
    )
    expand: Reach | None = key(
        "Pixels by which labels grow into the background, as scikit-image's expand_labels.",
        "a distance is a number from 0 to 10000",
        default=None,
    )
    ring: Ring | None = key(
        "Ring around each instance: [inner, outer] or {inner: 2, outer: 8}, the pixels farther "
        "than inner and no farther than outer.",
        "a ring is two numbers from 0 to 10000: [inner, outer] or {inner: 2, outer: 8}",
        default=None,
    )
    without: str | None = key(
        "Name of the layer before it whose pixels are taken away: cytoplasm is cells without "
        "nuclei.",
        NAME_RULE,
        default=None,
    )

    @model_validator(mode="after")
    def _is_made_in_one_way(self) -> Layer:
        ways = ("labels", "expand", "ring", "without")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            raise PydanticCustomError("together", "give one of labels, expand, ring and without")
        if given == ["labels"] and self.of is not None:
            raise PydanticCustomError("together", "of goes with expand, ring or without")
        if given != ["labels"] and (self.scale, self.translation) != (None, None):
            raise PydanticCustomError("together", "scale and translation go with labels")
        if given != ["labels"] and self.label_connected:
            raise PydanticCustomError("together", "label_connected goes with labels")
        if self.ring is not None and self.ring[0] >= self.ring[1]:
            raise PydanticCustomError("together", "the outer distance of a ring is the larger one")
        return self


class Aggregate(Section):
    """Statistics of every channel in every instance."""

    stats: Annotated[list[StatisticName], Field(min_length=1), Unlike] = key(
        "Statistics of each channel in each instance, and shapes of instances: any of "
        f"{ALL_NAMES}, in a file of the working directory or installed.",
        f"statistics are {ALL_NAMES}, each at most once",
        default_factory=lambda: ["mean", "count"],
    )
    rings: Annotated[int, Field(ge=1, le=999)] = key(
        "Number of rings of radial_mean.", "give 1 to 999 rings", default=RINGS
    )
    pairs: Annotated[list[Pair], Field(min_length=1)] | None = key(
        f"Pairs of names of channels for {', '.join(PAIRED)}.",
        "pairs are a list of two names of channels each, such as [[DAPI, CD3]]",
        default=None,
    )
    thresholds: dict[str, float] | None = key(
        "Threshold of each channel of the pairs, by its name, for manders_coloc_coeff.",
        "thresholds are a mapping of names of channels to numbers",
        default=None,
    )
    ignore_nan: bool = key(
        "Leave NaN pixels of a float image out; otherwise they make the statistics of their own "
        "instance and channel NaN.",
        "use true or false",
        default=False,
    )
    spacing: (
        Literal["metadata"] | Annotated[list[Side], Field(min_length=2, max_length=3)] | None
    ) = key(
        "Side of a pixel, in whose unit shapes and the distances of neighbours are: metadata (the "
        "image's, in micrometres), or a number along each of (z, ) y and x, such as [0.5, 0.5]; "
        "null: pixels.",
        "spacing is metadata, a list of positive numbers, one for each axis of the labels, or null",
        default=None,
    )
    neighbors: Literal["touching"] | Side | None = key(
        "Neighbours of each instance, as squidpy has them in obsp: touching (pixels of theirs "
        "share a side), or the longest distance between two centroids; null: not found.",
        "neighbors are touching, a positive number, or null",
        default=None,
    )
    layers: dict[CaseName, Layer] | None = key(
        "Other labels by name, measured in the same read: their rows follow in the table. Its obs "
        "has the layer in region and, in parent, the instance of the source's labels that has most "
        "of the row's pixels (0: none).",
        "layers are a mapping of a name (ASCII letters, digits, - and _) to its keys, or null",
        default=None,
    )
    derived: dict[CaseName, str] | None = key(
        "Columns derived from two of stats, by name: a difference or a quotient, such as "
        "nucleus.mean / cytoplasm.mean, mean - ring.mean or nucleus.area / area, without a prefix "
        "of the source's labels. They are layers of the table, or columns of obs, with NaN where "
        "there is no match or a 0 below. Layers made of the same labels (expand, ring, without) "
        "are matched by label; else the second is the source's labels or made of them, and each "
        "instance is matched with its parent's.",
        "derived is a mapping of a name to a formula, such as nucleus.mean / cytoplasm.mean",
        default=None,
    )
    whole_channels: bool = key(
        "Measure whole channels in the same read, which then takes tiles without labels too: mean, "
        "std, min, max and percentiles of all pixels and of those inside instances (in var), and "
        "their histograms (in uns). For integers of up to 16 bits.",
        "use true or false",
        default=False,
    )

    @model_validator(mode="after")
    def _parameters_are_there(self) -> Aggregate:
        try:
            of_section(self.model_dump())
        except InputError as error:
            raise PydanticCustomError("together", "{told}", {"told": str(error)}) from None
        return self

    @model_validator(mode="after")
    def _layers_are_made_of_those_before(self) -> Aggregate:
        before: list[str] = []
        for name, layer in (self.layers or {}).items():
            for other in (layer.of, layer.without):
                if other is not None and other not in before:
                    raise PydanticCustomError(
                        "together",
                        "layer {name} names {other}, which is no layer before it",
                        {"name": name, "other": other},
                    )
            before.append(name)
        return self

    @model_validator(mode="after")
    def _derived_columns_are_of_what_is_measured(self) -> Aggregate:
        stats = of_section(self.model_dump())
        # A function of the user's own is not imported: its outputs are not known.
        known = [one for one in stats if not (isinstance(one, str) and ":" in one)]
        asked = resolved(known) if known else Asked({}, {}, {})
        try:
            parsed(self.derived or {}, self.layers or {}, asked, complete=known == stats)
        except InputError as error:
            raise PydanticCustomError("together", "{told}", {"told": str(error)}) from None
        return self

    @property
    def opened_layers(self) -> dict[str, Layer]:
        """Layers that have labels of their own, by name."""
        return {name: layer for name, layer in (self.layers or {}).items() if layer.labels}

    @property
    def instances_of(self) -> dict[str, str]:
        """The layer with labels of its own whose instances each layer has; empty: the source's."""
        found: dict[str, str] = {}
        for name, layer in (self.layers or {}).items():
            found[name] = name if layer.labels else found[layer.of] if layer.of else ""
        return found

    def in_tiles(self) -> Aggregate:
        """Return the section for a tiled store, which holds the labels of layers by their names."""
        moved = {name: Layer(labels=name) for name in self.opened_layers}
        layers = None if self.layers is None else {**self.layers, **moved}
        return self.model_copy(update={"layers": layers})


def _model(model: str) -> str:
    """Look for the module of a model of the user's own; any other is the path of a file."""
    return _there(model) if OWN_NAME.fullmatch(model) else expanded(model)


class Embed(Section):
    """Numbers that a model gives for each crop; needs the section extract."""

    model: Annotated[str, AfterValidator(_model)] = key(
        "Path of an ONNX file with one input (onnxruntime must be installed), or module:name of a "
        "PyTorch module or of a function of NumPy arrays. It is given (n, c, y, x) float32.",
        "a model is the path of an ONNX file, or module:name",
    )
    obsm: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")] = key(
        "Name of the numbers in obsm of the result.",
        "a name is ASCII letters, digits, _, - and .",
        default="X_embedding",
    )
    batch_size: Positive = key(
        "Crops that the model is given at a time.", "a batch has at least 1 crop", default=256
    )
    channels: Annotated[list[str], Field(min_length=1), Unlike] | None = key(
        "Names of the channels, in the model's order; null for all that are cropped.",
        "channels are a list of names, each once, or null",
        default=None,
    )
    normalise: Literal["dtype", "percentile", "channels", "crop"] | None = key(
        "Way to normalise pixels: dtype divides by the largest value of their type; percentile "
        "maps percentiles 1 and 99 of a sample of each channel to 0 and 1; channels does so with "
        "those of all its pixels inside instances, which aggregate.whole_channels counts; crop "
        "with the least and largest pixel of each channel of each crop; null: as they are.",
        "choose dtype, percentile, channels, crop, or null",
        default="dtype",
    )
    device: Literal["auto", "cpu", "cuda"] = key(
        "Device of the model; auto: a GPU where its library finds one.",
        "choose auto, cpu or cuda",
        default="auto",
    )

    @property
    def engine(self) -> str:
        """Engine whose workers it has: with a GPU each, or on CPUs."""
        return {"auto": AUTO, "cuda": "cupy", "cpu": "numba"}[self.device]
