"""The section of the config that says where an image and its labels are, and what they mean.

It is imported while the workflow is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo
from pydantic_core import PydanticCustomError

from harpy_core.config.addresses import address_trouble, expanded, options_trouble
from harpy_core.config.section import Section, Side, Unlike, key

Dataset = Literal[
    "ihc",
    "tissue",
    "tissue-gigapixel",
    "tissue-terapixel",
    "macsima-tonsil",
    "merscope-liver",
]
MissingChunks = Literal["refuse", "strict", "fill"]

DATASETS: tuple[str, ...] = get_args(Dataset)

NAME_RULE = "a name is text"


def _without_credentials(address: str) -> str:
    trouble = address_trouble(address)
    if trouble is not None:
        raise PydanticCustomError("secret", "{told}", {"told": trouble})
    return address


def _without_secrets(options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    addresses = [str(info.data.get(name) or "") for name in ("uri", "labels")]
    protocols = [address.partition("://")[0] for address in addresses if "://" in address]
    trouble = options_trouble(options, protocols)
    if trouble is not None:
        raise PydanticCustomError("secret", "{told}", {"told": trouble})
    return options


def _axes_of_an_image(text: str) -> str:
    letters = text.lower()
    if len(set(letters)) < len(letters) or not {"y", "x"} <= set(letters) <= set("tczyx"):
        raise PydanticCustomError("axes", "not the axes of an image")
    return letters


NameFile = Annotated[str, StringConstraints(pattern=r"\.([ct]sv|txt)$"), AfterValidator(expanded)]
LocalPath = Annotated[str, AfterValidator(expanded)]
Address = Annotated[str, AfterValidator(expanded), AfterValidator(_without_credentials)]
LevelName = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]
Level = Annotated[int, Field(ge=0)] | LevelName

_Shift = Annotated[float, Field(allow_inf_nan=False)]
Scale = Side | Annotated[list[Side], Field(min_length=2, max_length=3)]
Translation = _Shift | Annotated[list[_Shift], Field(min_length=2, max_length=3)]


class Source(Section):
    """Place of an image and its labels."""

    uri: Address = key(
        "SpatialData or OME-Zarr store, zipped or not, at a path or at an s3://, gs:// or https:// "
        "address; TIFF, or a folder of one per channel; CZI, LIF, ND2 or N5, each with its extra; "
        f"or a registered name: {', '.join(DATASETS)}. Paths are relative to the working "
        "directory or, if there is no such path, to the config's folder; ~ and $NAMES "
        "are expanded.",
        "a source is a path, an address or a registered name",
        min_length=1,
    )
    image: str | None = key(
        "Name of the image element (or group) in the store, or name or number of a TIFF's series; "
        "not needed if there is only one.",
        NAME_RULE,
        default=None,
    )
    labels: Address | None = key(
        "Name of the labels element in the store, or the path or address of a label TIFF or Zarr "
        "array, or the path of polygons (.geojson, such as QuPath's; .parquet, such as "
        "SpatialData's shapes or Xenium's cell_boundaries); not needed if the store has only one.",
        NAME_RULE,
        default=None,
    )
    level: Level = key(
        "Resolution of a multiscale image and of its labels, by number or by its name in the "
        "metadata; 0 is the finest.",
        "a level is a whole number of at least 0, or a name",
        default=0,
    )
    labels_level: Level | None = key(
        "Resolution of the labels, likewise; null: the one of the image's shape.",
        "a level is a whole number of at least 0, or a name",
        default=None,
    )
    axes: Annotated[str, AfterValidator(_axes_of_an_image)] | None = key(
        "Names of the image's axes as they are stored, one letter each, such as zcyx, where the "
        "file does not say them or says others; null: as the file says.",
        "axes are letters of c, z, y, x and t, each once, with y and x",
        default=None,
    )
    t: Annotated[int, Field(ge=0)] | None = key(
        "Time point, if there are several; 0 is the first; null: there is only one.",
        "a time point is a whole number of at least 0, or null",
        default=None,
    )
    label_connected: bool = key(
        "Whether the labels are a binary mask, such as one of 0 and 255: each of its connected "
        "pieces is an instance then, numbered as scipy.ndimage.label does.",
        "use true or false",
        default=False,
    )
    labels_scale: Scale | None = key(
        "Pixels of the image along one of the labels, where these are of another resolution: 2 for "
        "half of the image's, or a number along each of (z, ) y and x; of polygons, pixels along "
        "1, such as 4.70588 for Xenium's micrometres. null: as the metadata say.",
        "a scale is a positive number, or one for each axis of the labels, or null",
        default=None,
    )
    labels_translation: Translation | None = key(
        "Pixels of the image before the first pixel of the labels, where these cover a part of it, "
        "likewise. null: as the metadata say.",
        "a translation is a number, or one for each axis of the labels, or null",
        default=None,
    )
    labels_nearest: bool = key(
        "Whether each pixel of the image takes the label at its centre where pixels of the labels "
        "are not whole ones of the image; without it such labels are refused.",
        "use true or false",
        default=False,
    )
    channels: Annotated[list[str], Field(min_length=1), Unlike] | NameFile | None = key(
        "Names of the channels to use; of an image that names none, the names of all its channels, "
        "in order. Or the path of a text with those names: one a line, or a table (.csv, .tsv) "
        "with a column marker_name (MCMICRO) or name (steinbock). null: all channels.",
        "channels are a list of names, each once, or the path of a .csv, .tsv or .txt, or null",
        default=None,
    )
    cache: LocalPath | None = key(
        "Folder that keeps the chunks fetched from an address, for the next stage and the next "
        "run; null keeps nothing.",
        "a cache is the path of a folder, or null",
        default=None,
        min_length=1,
    )
    missing_chunks: MissingChunks = key(
        "What a chunk is that a Zarr store does not hold: refuse: an error where an instance has "
        "pixels in the image's, else background; strict: an error wherever it is read, in the "
        "labels too; fill: the array's fill value everywhere.",
        "missing chunks are refuse, strict or fill",
        default="refuse",
    )
    storage_options: Annotated[dict[str, Any], AfterValidator(_without_secrets)] | None = key(
        "Options of fsspec for an address, by its protocol, such as {endpoint_url: "
        "https://minio.lab:9000} or {profile: lab} for s3; without an identity it is read "
        "anonymously ({anon: false}: with the credentials of the environment). Anything that may "
        "be a secret is refused.",
        "storage_options are a mapping, or null",
        default=None,
    )
