"""Small files of microscopes and scanners, written by what is published about their formats."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

_LETTERS = {"x": 1, "y": 2, "z": 3, "t": 4, "λ": 5}
"""Numbers of Leica's dimensions."""


def lif(path: Path, images: Mapping[str, tuple[str, np.ndarray, Sequence[str]]]) -> None:
    """Write a file of Leica: the XML of its images, then a block of memory for each.

    Parameters
    ----------
    images
        Axes, pixels and names of the channels of each image, by its name.
    """
    described = "".join(
        _lif_image(number, name, *image) for number, (name, image) in enumerate(images.items())
    )
    text = (
        '<LMSDataContainerHeader Version="2"><Element Name="project" UniqueID="0">'
        f"<Children>{described}</Children></Element></LMSDataContainerHeader>"
    )
    with open(path, "wb") as file:
        file.write(_lif_block(struct.pack("<BI", 0x2A, len(text)) + text.encode("utf-16-le")))
        for number, (_, values, _) in enumerate(images.values()):
            name = f"MemBlock_{number}"
            head = struct.pack("<BQBI", 0x2A, values.nbytes, 0x2A, len(name))
            file.write(_lif_block(head + name.encode("utf-16-le")) + values.tobytes())


def _lif_block(content: bytes) -> bytes:
    return struct.pack("<II", 0x70, len(content)) + content


def _lif_image(
    number: int, name: str, axes: str, values: np.ndarray, channels: Sequence[str]
) -> str:
    steps = dict(zip(axes, values.strides, strict=True))
    # Samples of a colour lie side by side, blue first.
    tags = (3, 2, 1) if axes.endswith("s") else (0,) * len(channels)
    step = steps.get("s", steps.get("c", 0))
    listed = "".join(
        f'<ChannelDescription DataType="{int(values.dtype.kind == "f")}" ChannelTag="{tag}" '
        f'Resolution="{values.dtype.itemsize * 8}" NameOfMeasuredQuantity="" Min="0" Max="1" '
        f'Unit="" LUTName="{channel}" IsLUTInverted="0" BytesInc="{i * step}" BitInc="0"/>'
        for i, (channel, tag) in enumerate(zip(channels, tags, strict=True))
    )
    sizes = [
        f'<DimensionDescription DimID="{_LETTERS[a]}" NumberOfElements="{n}" Origin="0" '
        f'Length="{(n - 1) * 5e-07}" Unit="m" BitInc="0" BytesInc="{steps[a]}"/>'
        for a, n in zip(axes, values.shape, strict=True)
        if a not in "cs"
    ]
    return (
        f'<Element Name="{name}" UniqueID="{number + 1}"><Data><Image><ImageDescription>'
        f"<Channels>{listed}</Channels><Dimensions>{''.join(reversed(sizes))}</Dimensions>"
        "</ImageDescription></Image></Data>"
        f'<Memory Size="{values.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
    )


def nd2(
    path: Path,
    values: np.ndarray,
    channels: Sequence[str],
    *,
    positions: Sequence[str] = (),
    missing: int = 0,
) -> None:
    """Write a file of Nikon: named chunks, then a map of them.

    Parameters
    ----------
    values
        Pixels (t, p, y, x, c), of which the file has one frame each time at each position.
    channels
        Names; of one name and three samples it is a colour image, whose samples are blue first.
    positions
        Names of the positions.
    missing
        Number of frames at the end that are not there.
    """
    times, places, height, width, samples = values.shape
    frames = [np.ascontiguousarray(frame) for frame in values.reshape(-1, height, width, samples)]
    wide = -(-width * samples * values.itemsize // 4) * 4
    attributes = {
        "uiWidth": width,
        "uiWidthBytes": wide,
        "uiHeight": height,
        "uiComp": samples,
        "uiBpcInMemory": values.itemsize * 8,
        "uiBpcSignificant": values.itemsize * 8,
        "uiSequenceCount": len(frames) - missing,
        "eCompression": 2,
    }
    dark = {"uiCount": 0, "bPoints": False, "pPoint": {}}
    probe = {"m_sName": "", "m_ExcitationSpectrum": dark, "m_EmissionSpectrum": dark}
    planes = {
        f"a{i}": {
            "uiCompCount": samples // len(channels),
            "pFluorescentProbe": probe,
            "sDescription": name,
        }
        for i, name in enumerate(channels)
    }
    pictures = {
        "sPicturePlanes": {"uiCount": len(planes), "uiCompCount": samples, "sPlaneNew": planes},
        "bCalibrated": True,
        "dCalibration": 0.5,
    }
    points = {f"i{i:010}": {"dPosName": name} for i, name in enumerate(positions)}
    inner = {"eType": 2, "uLoopPars": {"uiCount": places, "Points": points}, "uiNextLevelCount": 0}
    experiment = {
        "eType": 1,
        "uLoopPars": {"uiCount": times, "dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0},
        "uiNextLevelCount": 1,
        "ppNextLevelEx": {"i0000000000": inner},
    }
    chunks = {
        b"ImageAttributesLV!": _lite({"SLxImageAttributes": attributes}),
        b"ImageMetadataLV!": _lite({"SLxExperiment": experiment}),
        b"ImageMetadataSeqLV|0!": _lite({"SLxPictureMetadata": pictures}),
    }
    for number, frame in enumerate(frames[: len(frames) - missing]):
        rows = np.zeros((height, wide), "u1")
        rows[:, : width * samples * values.itemsize] = frame.view("u1").reshape(height, -1)
        chunks[b"ImageDataSeq|%d!" % number] = struct.pack("<d", 0.0) + rows.tobytes()
    with open(path, "wb") as file:
        signature = b"ND2 FILE SIGNATURE CHUNK NAME01!"
        file.write(struct.pack("<IIQ", 0x0ABECEDA, 32, 64) + signature + b"Ver3.0".ljust(64, b"\0"))
        places_of = {}
        for name, content in chunks.items():
            places_of[name] = (file.tell(), len(content))
            file.write(struct.pack("<IIQ", 0x0ABECEDA, 4072, len(content)))
            file.write(name.ljust(4072, b"\0") + content)
        at = file.tell()
        listed = b"".join(name + struct.pack("<QQ", *place) for name, place in places_of.items())
        end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", at)
        file.write(struct.pack("<IIQ", 0x0ABECEDA, 32, len(listed) + len(end)))
        file.write(b"ND2 FILEMAP SIGNATURE NAME 0001!" + listed + end)


def _lite(values: Mapping[str, Any]) -> bytes:
    """Encode settings as NIS-Elements does: a kind, a name and a value each."""
    return b"".join(_lite_entry(name, value) for name, value in values.items())


def _lite_entry(name: str, value: Any) -> bytes:
    kinds = {bool: (1, "<B"), int: (3, "<I"), float: (6, "<d")}
    if isinstance(value, dict):
        entries = [_lite_entry(each, inside) for each, inside in value.items()]
        # Offsets of the entries follow them, counted from the start of this one.
        start = 2 + 2 * (len(name) + 1) + 12
        places = list(itertools.accumulate([start, *map(len, entries[:-1])]))
        content = struct.pack("<IQ", len(entries), start + sum(map(len, entries)))
        content += b"".join(entries) + struct.pack(f"<{len(entries)}Q", *places[: len(entries)])
        kind = 11
    elif isinstance(value, str):
        kind, content = 8, f"{value}\0".encode("utf-16-le")
    else:
        kind, form = kinds[type(value)]
        content = struct.pack(form, value)
    return struct.pack("<BB", kind, len(name) + 1) + f"{name}\0".encode("utf-16-le") + content


def mrxs(path: Path, levels: Sequence[np.ndarray], side: int, left_out: Sequence[int] = ()) -> None:
    """Write a slide of 3DHISTECH without overlaps: a folder of settings, an index and images.

    Parameters
    ----------
    path
        Path of the file beside the folder; it holds nothing.
    levels
        Pixels (y, x, 3) of each level, each half of the one before; sides are multiples of `side`.
    side
        Pixels along y and x of an image.
    left_out
        Numbers of the images of the finest level that were not scanned.
    """
    path.write_bytes(b"")
    folder = path.with_suffix("")
    folder.mkdir()
    down, across = (n // side for n in levels[0].shape[:2])
    identity = "0123456789ABCDEF0123456789ABCDEF"
    data = bytearray(f"01.02{identity}000".encode() + bytes(256))
    items: list[list[tuple[int, int, int, int]]] = []
    for level, values in enumerate(levels):
        items.append([])
        for y, x in itertools.product(*(range(n // side) for n in values.shape[:2])):
            number = (y * across + x) << level
            if level or number not in left_out:
                tile = values[y * side : (y + 1) * side, x * side : (x + 1) * side]
                encoded = imagecodecs.png_encode(np.ascontiguousarray(tile))
                items[-1].append((number, len(data), len(encoded), 0))
                data += encoded
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mrxs_index(f"01.02{identity}".encode(), items))
    sections = [
        {
            "IMAGE_CONCAT_FACTOR": int(level > 0),
            "OVERLAP_X": 0,
            "OVERLAP_Y": 0,
            "MICROMETER_PER_PIXEL_X": 0.5 * 2**level,
            "MICROMETER_PER_PIXEL_Y": 0.5 * 2**level,
            "IMAGE_FILL_COLOR_BGR": 0x00F0E0D0,
            "DIGITIZER_WIDTH": side,
            "DIGITIZER_HEIGHT": side,
            "IMAGE_FORMAT": "PNG",
        }
        for level in range(len(levels))
    ]
    general = {
        "SLIDE_ID": identity,
        "IMAGENUMBER_X": across,
        "IMAGENUMBER_Y": down,
        "OBJECTIVE_MAGNIFICATION": 20,
        "CameraImageDivisionsPerSide": 1,
    }
    hierarchy = {
        "HIER_COUNT": 1,
        "NONHIER_COUNT": 0,
        "INDEXFILE": "Index.dat",
        "HIER_0_NAME": "Slide zoom level",
        "HIER_0_COUNT": len(levels),
        **{f"HIER_0_VAL_{i}_SECTION": f"LEVEL_{i}" for i in range(len(levels))},
    }
    groups = {
        "GENERAL": general,
        "HIERARCHICAL": hierarchy,
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
        **{f"LEVEL_{i}": section for i, section in enumerate(sections)},
    }
    text = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in groups.items()
    )
    (folder / "Slidedat.ini").write_text(text)


def _mrxs_index(head: bytes, items: Sequence[Sequence[tuple[int, ...]]]) -> bytes:
    """Encode a table of lists of pages, of which the first of each list is empty."""
    table = len(head) + 8
    pages = table + 4 * len(items)
    body, starts = b"", []
    for each in items:
        starts.append(pages + len(body))
        body += struct.pack("<ii", 0, starts[-1] + 8) + struct.pack("<ii", len(each), 0)
        body += b"".join(struct.pack("<iiii", *item) for item in each)
    return head + struct.pack("<ii", table, 0) + struct.pack(f"<{len(items)}i", *starts) + body


def svs(path: Path, levels: Sequence[np.ndarray], compression: str | int = "jpeg") -> None:
    """Write a slide of Aperio: levels in tiles, a thumbnail after the first, label and overview.

    Parameters
    ----------
    levels
        Pixels (y, x, 3) of each level.
    compression
        Compression of the tiles by its name or number.
    """
    first, *others = levels
    high, wide = first.shape[:2]
    head = f"Aperio Image Library v12.0.15\r\n{wide}x{high} [0,0 {wide}x{high}] (64x64)"
    more: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    tiled = {**more, "tile": (64, 64), "compression": compression}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(first, description=f"{head} JPEG/RGB Q=95|AppMag = 20|MPP = 0.4990", **tiled)
        tiff.write(first[::4, ::4], description=f"{head} -> thumbnail", **more)
        for level in others:
            tiff.write(level, description=f"{head} -> {level.shape[1]}x{level.shape[0]}", **tiled)
        for kind, name in ((1, "label"), (9, "macro")):
            text = f"Aperio Image Library v12.0.15\r\n{name} 30x20"
            tiff.write(first[:20, :30], description=text, subfiletype=kind, **more)


def scn(path: Path, images: Mapping[str, Sequence[np.ndarray]], bright: bool = True) -> None:
    """Write a slide of Leica: its XML in the first page, an overview, then levels of each image.

    Parameters
    ----------
    images
        Pixels of each level of each image: (y, x, 3), or (c, y, x) if it is not `bright`.
    bright
        Whether it was seen in transmitted light.
    """
    overview = np.zeros((32, 64, 3), "u1")
    pages, texts = [overview], []
    for number, (name, levels) in enumerate(images.items()):
        listed = ""
        for r, level in enumerate(levels):
            planes = [level] if bright else list(level)
            for c, plane in enumerate(planes):
                listed += (
                    f'<dimension sizeX="{plane.shape[1]}" sizeY="{plane.shape[0]}" r="{r}" '
                    f'ifd="{len(pages)}" c="{c}"/>'
                )
                pages.append(plane)
        high, wide = levels[0].shape[:2] if bright else levels[0].shape[1:]
        texts.append(
            f'<image name="{name}" uuid="u{number}"><creationDate>2012-01-01</creationDate>'
            f'<device model="M" version="1"/>'
            f'<pixels sizeX="{wide}" sizeY="{high}">{listed}</pixels>'
            f'<view sizeX="{wide * 500}" sizeY="{high * 500}" offsetX="{(number + 1) * 100000}" '
            f'offsetY="100000" spacingZ="0"/><scanSettings><objectiveSettings><objective>20'
            "</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )
    macro = (
        '<image name="overview" uuid="m"><pixels sizeX="64" sizeY="32">'
        '<dimension sizeX="64" sizeY="32" r="0" ifd="0"/></pixels>'
        '<view sizeX="26000000" sizeY="13000000" offsetX="0" offsetY="0" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>0.6</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        'uuid="s"><collection name="slide" uuid="c" sizeX="26000000" sizeY="13000000">'
        f"{macro}{''.join(texts)}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, page in enumerate(pages):
            colour = page.ndim == 3
            tiff.write(
                page,
                description=text if number == 0 else None,
                photometric="rgb" if colour else "minisblack",
                compression="jpeg" if colour else "lzw",
                tile=(32, 32),
                resolution=(20_000, 20_000),
                resolutionunit="centimeter",
                metadata=None,
            )


def ndpi(path: Path, images: Sequence[tuple[float, np.ndarray]]) -> list[np.ndarray]:
    """Write a slide of Hamamatsu: a TIFF of JPEGs whose parts can be found, with wider offsets.

    Parameters
    ----------
    images
        Magnification and pixels (y, x, 3) of each level; of -1 it is the overview, of -2 the map.

    Returns
    -------
    Pixels of each, as they are decoded.
    """
    decoded = []
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHQ", b"II", 42, 0))
        link = 4
        for magnification, values in images:
            encoded = _jpeg_in_parts(values)
            decoded.append(imagecodecs.jpeg8_decode(encoded))
            at = file.tell()
            file.write(encoded)
            starts = _parts_of(encoded)
            tags: list[tuple[int, int, Sequence[Any]]] = [
                (256, 4, [values.shape[1]]),
                (257, 4, [values.shape[0]]),
                (258, 3, [8, 8, 8]),
                (259, 3, [7]),
                (262, 3, [6]),
                (271, 2, b"Hamamatsu\0"),
                (272, 2, b"NanoZoomer\0"),
                (273, 4, [at]),
                (277, 3, [3]),
                (278, 4, [values.shape[0]]),
                (279, 4, [len(encoded)]),
                (282, 5, [40_000, 1]),
                (283, 5, [40_000, 1]),
                (296, 3, [3]),
                (530, 3, [1, 1]),
                (65420, 4, [1]),
                (65421, 11, [magnification]),
                (65422, 9, [0]),
                (65423, 9, [0]),
                (65424, 9, [0]),
                (65426, 4, starts),
                (65427, 2, b"slide\0"),
            ]
            if len(starts) < 2:
                tags = [tag for tag in tags if tag[0] != 65426]
            link = _ndpi_page(file, tags, link)
    return decoded


def _ndpi_page(file: Any, tags: Sequence[tuple[int, int, Sequence[Any]]], link: int) -> int:
    """Write a directory, link it to the one before, and return where the next is to be linked."""
    forms = {2: "B", 3: "H", 4: "I", 5: "I", 9: "i", 11: "f"}
    entries = b""
    for tag, kind, values in tags:
        content = struct.pack(f"<{len(values)}{forms[kind]}", *values)
        if len(content) > 4 or kind == 2:
            place = file.tell()
            file.write(content + bytes(len(content) % 2))
            content = struct.pack("<I", place)
        count = len(values) // 2 if kind == 5 else len(values)
        entries += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    start = file.tell()
    file.write(struct.pack("<H", len(tags)) + entries)
    following = file.tell()
    # The upper halves of the next directory's place and of each value follow.
    file.write(bytes(8) + bytes(4 * len(tags)))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<Q", start))
    file.seek(end)
    return following


def _jpeg_in_parts(values: np.ndarray) -> bytes:
    """Encode pixels with a marker after each row of blocks, from where it can be decoded."""
    out = io.BytesIO()
    Image.fromarray(values).save(
        out, "JPEG", quality=95, subsampling="4:4:4", restart_marker_rows=1
    )
    return out.getvalue()


def _parts_of(encoded: bytes) -> list[int]:
    """Places from the start of a JPEG where its parts begin: after its head, and each marker."""
    scan = encoded.index(b"\xff\xda")
    first = scan + 2 + struct.unpack(">H", encoded[scan + 2 : scan + 4])[0]
    found = [first]
    for at in range(first, len(encoded) - 1):
        if encoded[at] == 0xFF and 0xD0 <= encoded[at + 1] <= 0xD7:
            found.append(at + 2)
    return found
