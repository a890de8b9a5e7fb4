"""Statistics and crops of distinct files from a disk, a web server or S3, against the way there.

    python benchmarks/disk.py [--data FOLDER] [--record FILE]

Cold: the files are dropped from the page cache before every run, which is made sure of. The floor
is the longer of reading the files, in the fastest of three ways, and of decoding them from the
cache; crops have the time of the warm run beyond decoding, for encoding and
writing, added. The web server waits 30 ms before each answer and sends no more bytes a second than
its link carries.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import zarr
from common import (
    DENSE,
    SHAPE,
    Table,
    decode_all,
    median_seconds,
    read_past_the_cache,
    record,
    seconds,
    tissue_store,
)

import harpy_core as hc
from harpy_core.benchmark.page_cache import InputFiles
from harpy_core.running import cluster

LATENCY = 0.03
"""Seconds before the first byte of an answer."""
LINK = 200e6
"""Bytes that the link carries in a second."""
_SLACK = 0.02


def read_through_the_cache(files: InputFiles, streams: int) -> None:
    """Read files with some threads the usual way."""

    def read(some: Sequence[Path]) -> None:
        buffer = bytearray(2**22)
        for path in some:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    threads = [
        threading.Thread(target=read, args=(files.distinct[i::streams],)) for i in range(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def from_disk(store: Path, folder: Path, repeats: int) -> Table:
    """Measure both jobs with a cold and a warm cache, in turn, beside disk and decoding."""
    table = Table(f"dense tissue {SHAPE}, distinct files, 2 workers x 1 thread")
    group = zarr.open_group(store, mode="r")
    image, labels = group["lz4"], group["labels"]
    files = InputFiles.of(image, labels)
    instances = hc.find_instances(labels)
    with cluster.local(2, 1, "4GB") as client, tempfile.TemporaryDirectory(dir=folder) as scratch:
        crops = partial(
            hc.extract_instances,
            image,
            labels,
            Path(scratch) / "crops.zarr",
            client=client,
            instances=instances,
            resume=False,
            overwrite=True,
        )
        mean = partial(hc.aggregate_stats, image, labels, ("mean",), client=client)
        disk = {
            f"disk, {n} streams": partial(read_past_the_cache, files.distinct, n) for n in (1, 4)
        }
        disk["disk, 2 streams, cached"] = partial(read_through_the_cache, files, 2)
        works: dict[tuple[str, str], Callable[[], Any]] = {
            **{(name, "cold"): work for name, work in disk.items()},
            ("mean", "cold"): mean,
            ("crops", "cold"): crops,
            ("decode", "warm"): partial(decode_all, image, 2),
            ("mean", "warm"): mean,
            ("crops", "warm"): crops,
        }
        times: dict[tuple[str, str], list[float]] = {name: [] for name in works}
        mean()
        crops()
        for _ in range(repeats):
            for (name, cache), work in works.items():
                files.bring_into(cache)
                times[name, cache].append(seconds(work))
    table.add("stored bytes", files.size / 1e9, "GB")
    for (name, cache), values in times.items():
        table.add(f"{name}, {cache}", statistics.median(values), "s")

    def over_floor(name: str, round_: int) -> float:
        read = min(times[way, "cold"][round_] for way in disk)
        decode = times["decode", "warm"][round_]
        more = times[name, "warm"][round_] - decode if name == "crops" else 0.0
        return times[name, "cold"][round_] / (max(read, decode) + more)

    for name, most in (("mean", "<= 1.15"), ("crops", "<= 1.3")):
        ratios = [over_floor(name, i) for i in range(repeats)]
        table.add(f"{name}, cold / floor", statistics.median(ratios), "x", most)
    return table


class _Link:
    """Bytes that a link carries, handed out in turn."""

    def __init__(self, rate: float) -> None:
        self._rate, self._lock, self._free_at = rate, threading.Lock(), 0.0

    def carry(self, size: int) -> None:
        """Wait until some bytes have passed."""
        with self._lock:
            now = time.monotonic()
            # What was not carried for a moment, while its senders slept too long, is made up for.
            self._free_at = max(self._free_at, now - _SLACK) + size / self._rate
            until = self._free_at
        time.sleep(max(until - now, 0))


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    link: _Link

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        time.sleep(LATENCY)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            view = memoryview(content)
            for first in range(0, len(view), 2**18):
                part = view[first : first + 2**18]
                self.link.carry(len(part))
                self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(folder: str) -> None:
    """Serve the files of a folder; print the port."""
    _Server.folder, _Server.link = Path(folder), _Link(LINK)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    print(server.server_address[1], flush=True)
    server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server of the files of a folder, in a process of its own; its address."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def from_server(store: Path, repeats: int, scheme: str) -> Table:
    """Measure the mean over a slow link: the bytes that arrive, against those that it carries."""
    table = Table(f"mean by {scheme} over {LINK / 1e6:.0f} MB/s, {LATENCY * 1e3:.0f} ms, 2 x 2")
    group = zarr.open_group(store, mode="r")
    size = InputFiles.of(group["lz4"], group["labels"]).size
    # Of an S3, the first folder of a path is the bucket.
    inside = store.relative_to(store.parents[1]).as_posix()
    with served(store.parents[1]) as server, cluster.local(2, 2, "4GB") as client:
        address, options = {
            "http": (f"{server}/{inside}", None),
            "s3": (f"s3://{inside}", {"endpoint_url": server, "anon": True}),
        }[scheme]
        raster = hc.open_raster(address, "lz4", "labels", storage_options=options)
        work = partial(hc.aggregate_stats, raster.image, raster.labels, ("mean",), client=client)
        # A second thread waits for its chunk while the first decodes.
        taken = median_seconds(work, repeats)
    table.add("stored bytes", size / 1e9, "GB")
    table.add("mean", taken, "s")
    table.add("share of the link", size / taken / LINK, "", ">= 0.85")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    options.data.mkdir(parents=True, exist_ok=True)
    store = tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd"))
    tables = [
        from_disk(store, options.data, options.repeats),
        *(from_server(store, options.repeats, scheme) for scheme in ("http", "s3")),
    ]
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
