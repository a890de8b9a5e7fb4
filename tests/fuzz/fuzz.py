"""Damaged and hostile inputs, made by chance, through the doors that users have.

    python tests/fuzz/fuzz.py [--minutes 5] [--seed 0]

Each case is a small store or TIFF with some of its bytes, tags or metadata changed; its number
makes it again. It is opened, planned, surveyed and measured in a child process. What may come of it
is a result or one line of `InputError`; another error, a crash, more than ten seconds or more than
1 GB of memory is a finding, and its files are kept.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 10
"""Processor time after which a case counts as hanging, in seconds."""

MEMORY = 2**30
"""Bytes that a case may add to what its process holds."""

_CASES_EACH = 150
"""Cases that a child does before a new one takes over."""

HOSTILE = (
    *(
        0,
        1,
        -1,
        2**15,
        2**31,
        2**32,
        2**63,
        2**64,
        10**15,
        10**30,
        -(2**63),
        1.5,
        1e308,
        True,
        None,
    ),
    *("", "x", "../..", "/etc/passwd", "uint64", "<u8", "|O", ">f2", "float16", "gzip", "zstd"),
    *("blosc", "sharding_indexed", "crc32c", "transpose", "\0", [], {}, [0, 0], [1, 2, 3, 4, 5]),
)
"""Values that replace one of the metadata."""


# Cases --------------------------------------------------------------------------------------------


def make(number: int, folder: Path) -> str:
    """Write a case's files and say where its source is."""
    chance = random.Random(number)
    kind = chance.choice(("0.4", "0.5", "plain", "rare", "sharded", "zip", "tiff", "tiff"))
    if kind == "tiff":
        return _tiff(chance, folder)
    source = _store(kind, chance, folder)
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    metadata = [path for path in files if path.name in _NAMES]
    pixels = [path for path in files if path not in metadata]
    for _ in range(chance.choice((1, 1, 2, 5))):
        if chance.random() < 0.5:
            _change_json(chance, chance.choice(metadata))
        else:
            _change_bytes(chance, chance.choice(metadata if chance.random() < 0.15 else pixels))
    if kind != "zip":
        return str(source)
    return _zipped(chance, source, folder / "store.zarr.zip")


_NAMES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def _store(kind: str, chance: random.Random, folder: Path) -> Path:
    import numpy as np
    import stores
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

    path = folder / "store.zarr"
    if kind in ("0.4", "0.5", "zip"):
        version = chance.choice(("0.4", "0.5")) if kind == "zip" else kind
        stores.ome_zarr(path, version)
        return path
    if kind == "rare":
        return _rare(chance, path)
    group = zarr.open_group(path, mode="w")
    choices: tuple[Any, ...] = (BloscCodec(), ZstdCodec(), GzipCodec(), None)
    codec = chance.choice(choices)
    steps = [*([codec] if codec else []), *([Crc32cCodec()] if chance.random() < 0.3 else [])]
    shards = (1, 32, 32) if kind == "sharded" else None
    for name, values, cut in (
        ("image", stores.pixels(), slice(None)),
        ("cells", stores.cells(), slice(1, None)),
    ):
        group.create_array(
            f"{'images' if name == 'image' else 'labels'}/{name}",
            data=np.asarray(values),
            chunks=(1, 16, 16)[cut],
            shards=shards[cut] if shards else None,
            compressors=steps,
        )
    return path


def _rare(chance: random.Random, path: Path) -> Path:
    import numcodecs
    import stores
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2)
    codecs = numcodecs.BZ2(), numcodecs.LZMA(), numcodecs.LZ4(), numcodecs.Zlib(), None
    filters = [], [numcodecs.Shuffle(2)], [numcodecs.Delta("<u2"), numcodecs.CRC32()]
    group.create_array(
        "images/image",
        data=stores.pixels(),
        chunks=(1, 16, 16),
        compressors=chance.choice(codecs),
        filters=chance.choice(filters),
        order=chance.choice("CF"),
    )
    group.create_array("labels/cells", data=stores.cells(), chunks=(16, 16))
    return path


def _tiff(chance: random.Random, folder: Path) -> str:
    import stores

    options: dict[str, Any] = chance.choice(
        ({}, {"tile": (16, 16)}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"})
    )
    image, labels = stores.tiffs(folder, **options)
    for _ in range(chance.choice((1, 2, 4))):
        _change_bytes(chance, Path(chance.choice((image, image, labels))))
    return image


def _zipped(chance: random.Random, source: Path, path: Path) -> str:
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(source.rglob("*")):
            archive.write(file, file.relative_to(source))
    if chance.random() < 0.4:
        _change_bytes(chance, path)
    return str(path)


def _change_json(chance: random.Random, path: Path) -> None:
    """Put something hostile at a place of a document."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = chance.choice(keys)
        deeper = isinstance(node[key], (dict, list)) and node[key]
        if not deeper or chance.random() < 0.15:
            break
        node = node[key]
    if chance.random() < 0.2:
        del node[key]
    else:
        node[key] = chance.choice(HOSTILE)
    path.write_text(json.dumps(document))


def _change_bytes(chance: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 10))):
        at = chance.randrange(len(content)) if content else 0
        if chance.random() < 0.5:
            at = min(at, chance.randrange(64))
        change = chance.randrange(6)
        if change == 0 and content:
            content[at] ^= 1 << chance.randrange(8)
        elif change == 1 and content:
            content[at] = chance.choice((0, 1, 127, 128, 255))
        elif change == 2:
            content[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"))
        elif change == 3:
            content[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\x10" + bytes(7)))
        elif change == 4:
            del content[at:]
        else:
            content[at:at] = chance.randbytes(chance.choice((1, 4, 100)))
    path.write_bytes(bytes(content))


# Doors --------------------------------------------------------------------------------------------


def enter(source: str) -> None:
    """Go through every door of a source; one line of error is fine at each of them."""
    from harpy_core.errors import InputError

    for door in (_preflight, _survey, _measure):
        try:
            door(source)
        except InputError as error:
            lines = str(error).splitlines()
            # The preflight has a line for each mistake.
            if len(lines) > 1 and not all(line.startswith("fuzz.yaml: ") for line in lines):
                raise AssertionError(f"an error of several lines: {error}") from error


def _keys(source: str) -> dict[str, Any]:
    return {"labels": "labels.tif"} if source.endswith(".tif") else {}


def _preflight(source: str) -> None:
    from harpy_core.planning import preflight

    given = {"uri": source, **_keys(source), "channels": ["DAPI"]}
    preflight.checked({"cases": {"fuzz": {"source": given}}}, "fuzz.yaml")


def _survey(source: str) -> None:
    from harpy_core.planning.survey import survey

    survey(source, **_keys(source))


def _measure(source: str) -> None:
    import harpy_core as hc

    raster = hc.open_raster(source, **_keys(source))
    hc.aggregate_stats(
        *(raster.image, raster.labels),
        stats=("mean", "max"),
        channels=raster.channels,
        engine="numpy",
    )


# Processes ----------------------------------------------------------------------------------------


def child(first: int, count: int, folder: Path) -> None:
    """Do some cases in a row; the folder tells which was the last."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    warnings.simplefilter("ignore")
    logging.disable()
    import stores

    import harpy_core

    # What is slow the first time is no case's.
    stores.ome_zarr(folder / "first.zarr", "0.5")
    raster = harpy_core.open_raster(folder / "first.zarr")
    harpy_core.aggregate_stats(raster.image, raster.labels, engine="numpy")
    shutil.rmtree(folder / "first.zarr")
    # Numbers of the metadata are allocated as they are: this is where they meet a wall.
    resource.setrlimit(resource.RLIMIT_DATA, (6 * MEMORY, 6 * MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, first + count):
        place = folder / str(number)
        place.mkdir()
        source = make(number, place)
        before = _peak()
        began = time.process_time()
        faulthandler.dump_traceback_later(12 * SECONDS, exit=True)
        try:
            enter(source)
        except Exception:
            traceback.print_exc()
            print(f"case {number}: not an InputError", file=sys.stderr)
            sys.exit(1)
        faulthandler.cancel_dump_traceback_later()
        if time.process_time() - began > SECONDS:
            sys.exit(f"case {number}: {time.process_time() - began:.0f} seconds")
        if _peak() - before > MEMORY:
            sys.exit(f"case {number}: {(_peak() - before) / 2**20:.0f} MiB")
        shutil.rmtree(place)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(minutes: float, seed: int, tell: Callable[[str], None] = print) -> int:
    """Do cases for some minutes; the number of findings."""
    findings, number, until = 0, seed, time.monotonic() + 60 * minutes
    kept = Path(tempfile.mkdtemp(prefix="harpy-core-fuzz-"))
    while time.monotonic() < until:
        call = [sys.executable, __file__, "--child", str(number), str(kept)]
        ended = subprocess.run(call, capture_output=True, text=True)
        left = sorted(int(path.name) for path in kept.iterdir() if path.name.isdigit())
        if ended.returncode == 0:
            number += _CASES_EACH
            continue
        last = left[-1] if left else number
        findings += 1
        (kept / str(last)).rename(kept / f"case-{last}")
        tell(f"case {last}, exit {ended.returncode}: {kept}/case-{last}\n{ended.stderr[-3000:]}")
        number = last + 1
    tell(f"{number - seed} cases, {findings} findings")
    if not findings:
        shutil.rmtree(kept)
    return findings


def main() -> None:
    """Start from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(int(given.child[0]), _CASES_EACH, Path(given.child[1]))
        return
    sys.exit(min(run(given.minutes, given.seed), 1))


if __name__ == "__main__":
    main()
