"""Settings by which crops are cut and kept: their one definition.

The config's section `extract` is built on it, and `harpy_core.extract_instances` and
`harpy_core.plan_extract` take its keys as arguments. It is imported while the workflow is parsed,
so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harpy_core.config.addresses import expanded
from harpy_core.config.section import (
    CaseName,
    Positive,
    Section,
    Side,
    Unlike,
    key,
    remedy_of,
    rule_of,
)
from harpy_core.errors import InputError

Codec = Literal["lz4", "zstd", "none"]
LabelFile = Annotated[str, AfterValidator(expanded)]


Sides = Annotated[list[Positive], Field(min_length=2, max_length=3)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Padding = Literal["edge", "reflect", "symmetric"] | int | Finite

_LATER = ("neighbor_mask", "padding", "windows", "resolution", "spacing", "rotate")
"""Keys that a record leaves out where they are at their defaults: it stays the one that stores had
before there were such keys, and with it what is resumed and reused."""


class Window(Section):
    """A further window around each instance."""

    diameter: Positive | Sides = key(
        "Side of the window, or its sides, as that of the crops.",
        "a window must be at least 1 pixel",
    )
    resolution: Side | None = key(
        "Micrometres of one of its pixels along y and x; null: as the crops.",
        "give a number of micrometres above 0, or null",
        default=None,
    )

    def size(self, depth: int) -> tuple[int, int, int]:
        """Planes, rows and columns.

        Parameters
        ----------
        depth
            Planes of the image.
        """
        if isinstance(self.diameter, int):
            return depth, self.diameter, self.diameter
        *planes, rows, columns = self.diameter
        return planes[0] if planes else depth, rows, columns


class CropSettings(Section):
    """Settings of crops; each key is an argument of `harpy_core.extract_instances`."""

    diameter: Positive | Sides = key(
        "Side of the window around an instance's centroid, in pixels; or its sides as [y, x], or "
        "as [z, y, x] for windows of some planes: otherwise all planes are kept.",
        "a window must be at least 1 pixel",
        default=50,
    )
    batch_size: Positive = key(
        "Instances in one chunk of the crops.",
        "a batch must hold at least 1 crop",
        default=500,
    )
    remove_background: bool = key(
        "Set to 0 the pixels of a window that lie outside its instance.",
        "use true or false",
        default=True,
    )
    extract_mask: bool = key(
        "Write each instance's mask beside its crop.",
        "use true or false",
        default=False,
    )
    neighbor_mask: bool = key(
        "Give the masks a second channel, of all other instances in the window.",
        "use true or false",
        default=False,
    )
    padding: Padding = key(
        "Pixels of a window outside the image, where the background is kept: a number, or edge, "
        "reflect or symmetric, as numpy.pad continues the part of the window inside it.",
        "give a number, or choose edge, reflect or symmetric",
        default=0,
    )
    windows: Annotated[dict[CaseName, Window], Field(min_length=1)] | None = key(
        "Further windows around each instance, by name, cut in the same read: their crops are the "
        "arrays image_<name>, and mask_<name> if there are masks; null: none.",
        "windows are a mapping of a name (ASCII letters, digits, - and _) to its diameter and, "
        "where there is one, its resolution, or null",
        default=None,
    )
    resolution: Side | None = key(
        "Micrometres of a pixel of the crops along y and x, to which windows are resampled, "
        "whatever the image's: diameter is then in these pixels; null: the image's own pixels.",
        "give a number of micrometres above 0, or null",
        default=None,
    )
    spacing: Annotated[list[Side], Field(min_length=2, max_length=3)] | None = key(
        "Side of the image's pixels in micrometres along (z, ) y and x, for resolution; null: as "
        "its metadata have it.",
        "spacing is a list of positive numbers, one for each axis of the labels, or null",
        default=None,
    )
    rotate: bool = key(
        "Turn each window so that the longest axis of its instance lies along x.",
        "use true or false",
        default=False,
    )
    dtype: Literal["float16", "float32"] | None = key(
        "Type of the stored pixels; null: the image's. A float type needs a scale.",
        "choose float16, float32, or leave it out",
        default=None,
    )
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = key(
        "Factor of the pixels before they are stored as dtype, such as 0.0000152590 (1/65535).",
        "give a number above 0",
        default=None,
    )
    codec: Codec = key(
        "Compression of the crops: lz4 is read fastest; zstd is smaller, with the background less "
        "than half; none is plain bytes.",
        "choose from lz4, zstd, none",
        default="lz4",
    )
    shard_size: Positive | None = key(
        "Instances in one file, a multiple of batch_size; null: each chunk is a file of its own.",
        "give a multiple of batch_size",
        default=None,
    )
    shuffle: Annotated[int, Field(ge=0)] | None = key(
        "Seed of a random order in which the instances are stored, so that training can read the "
        "store in its order; null: neighbours together.",
        "a seed is a whole number of at least 0, or null",
        default=None,
    )

    @model_validator(mode="after")
    def _sizes_and_types_go_together(self) -> CropSettings:
        if self.batch % self.batch_size:
            raise PydanticCustomError(
                "together",
                "shard_size = {shard}: give a multiple of batch_size, {batch}",
                {"shard": self.shard_size, "batch": self.batch_size},
            )
        if (self.dtype is None) != (self.scale is None):
            raise PydanticCustomError(
                "together",
                "dtype = {dtype}, scale = {scale}: give both, such as dtype='float16', "
                "scale=1/65535 (0.000015259), or neither",
                {"dtype": repr(self.dtype), "scale": repr(self.scale)},
            )
        if self.neighbor_mask and not self.extract_mask:
            raise PydanticCustomError(
                "together",
                "neighbor_mask = True: it is a second channel of the masks; set extract_mask too",
            )
        if self.padding != 0 and self.remove_background:
            raise PydanticCustomError(
                "together",
                "padding = {padding}: outside an instance all is 0 with remove_background; set "
                "that to false, or leave padding out",
                {"padding": repr(self.padding)},
            )
        return self

    @model_validator(mode="after")
    def _windows_go_together(self) -> CropSettings:
        for name, window in (self.windows or {}).items():
            if window.resolution is not None and self.resolution is None:
                raise PydanticCustomError(
                    "together",
                    "windows.{name}.resolution = {resolution}: give the crops a resolution too",
                    {"name": name, "resolution": window.resolution},
                )
            planes = isinstance(window.diameter, list) and len(window.diameter) == 3
            if planes != self.deep:
                raise PydanticCustomError(
                    "together",
                    "windows.{name}.diameter = {diameter}: give all windows planes, [z, y, x], or "
                    "none",
                    {"name": name, "diameter": repr(window.diameter)},
                )
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, make: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = make(self)
        fields = type(self).model_fields
        unused = [name for name in _LATER if found.get(name) == fields[name].default]
        return {name: value for name, value in found.items() if name not in unused}

    @property
    def masks(self) -> int:
        """Number of channels of the masks."""
        return self.extract_mask + self.neighbor_mask

    @property
    def surroundings(self) -> bool:
        """Whether a window needs pixels outside its instance."""
        return not self.remove_background or self.neighbor_mask

    @property
    def deep(self) -> bool:
        """Whether windows are of some planes, around the centroid, and not of all."""
        return isinstance(self.diameter, list) and len(self.diameter) == 3

    def window(self, depth: int) -> tuple[int, int, int]:
        """Planes, rows and columns of a window.

        Parameters
        ----------
        depth
            Planes of the image.
        """
        return Window(diameter=self.diameter).size(depth)

    @property
    def batch(self) -> int:
        """Number of crops in one file."""
        return self.batch_size if self.shard_size is None else self.shard_size

    def on(self, spacing: Sequence[float] | None) -> CropSettings:
        """Return the settings with the sides of an image's pixels, where these are needed.

        Parameters
        ----------
        spacing
            Side of a pixel along (z, ) y and x in micrometres; None where nothing tells.

        Raises
        ------
        InputError
            They are needed, and nothing tells them.
        """
        if self.resolution is None:
            return self
        sides = self.spacing or spacing
        if sides is None:
            raise InputError(
                f"resolution = {self.resolution:g}: nothing tells how large a pixel of the image "
                "is; give its sides in micrometres, such as spacing = [0.5, 0.5]"
            )
        return self.model_copy(update={"spacing": [float(side) for side in sides]})

    @classmethod
    def of(cls, **settings: Any) -> CropSettings:
        """Make settings from arguments.

        Raises
        ------
        InputError
            A setting makes no sense; the message gives the remedy.
        """
        try:
            return cls(**{name: _builtin(value) for name, value in settings.items()})
        except ValidationError as error:
            found = error.errors()
        # A mistyped key is often why another one is missing.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        if not first["loc"]:
            raise InputError(first["msg"])
        name, *inside = (str(part) for part in first["loc"])
        holder: type[Section] = cls
        field = cls.model_fields.get(name)
        if name == "windows" and inside:
            missing = first["type"] == "missing"
            inner = [part for part in inside if part != "[key]"][: 1 if missing else 2]
            name = ".".join([name, *inner])
            if len(inner) > 1:
                holder, field = Window, Window.model_fields.get(inner[1])
        remedy = remedy_of(first, holder, rule_of(field) if field else "")
        raise InputError(f"{name} = {first['input']!r}: {remedy}")

    @classmethod
    def within(cls, section: Mapping[str, Any]) -> CropSettings:
        """Return the settings in a config's section extract, which also says what is cropped."""
        return cls(**{name: section[name] for name in cls.model_fields if name in section})


def _builtin(value: Any) -> Any:
    """A value as a config has it."""
    if isinstance(value, Mapping):
        return {name: _builtin(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_builtin(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value


class Extract(CropSettings):
    """One centred crop of every instance, all channels."""

    channels: Annotated[list[str], Field(min_length=1), Unlike] | None = key(
        "Names of the channels to crop, in the image's order; null for all that the source uses.",
        "channels are a list of names, each once, or null",
        default=None,
    )
    index: Annotated[list[Positive], Field(min_length=1)] | LabelFile | None = key(
        "Instances to crop: their labels, or the path of a text file with one label per line; null "
        "for all.",
        "labels of instances, as a list of whole numbers or the path of a text file, or null",
        default=None,
    )
