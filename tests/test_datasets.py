"""The data sets by name, the store they are written to, and the download, from a real server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata
import zarr
from scipy import ndimage
from spatialdata.models import Image2DModel, Image3DModel, Labels2DModel, Labels3DModel
from zarr.codecs import ZstdCodec

from harpy_core.datasets import REGISTRY, fetch, ihc
from harpy_core.datasets.download import ATTEMPTS, download, fetch_archive, unzip
from harpy_core.datasets.tissue import Tissue, tissue, tissue_tile
from harpy_core.errors import InputError
from harpy_core.raster import open_raster, spatialdata_store

# The store --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_metadata_are_those_that_spatialdata_writes(tmp_path: Path) -> None:
    images = {
        "image": Image2DModel.parse(
            np.zeros((3, 64, 64), np.uint16), dims=("c", "y", "x"), c_coords=["a", "b", "c"]
        ),
        "stack": Image3DModel.parse(
            np.zeros((2, 4, 64, 64), np.float32), dims=("c", "z", "y", "x"), c_coords=["a", "b"]
        ),
    }
    labels = {
        "labels": Labels2DModel.parse(np.zeros((64, 64), np.uint32), dims=("y", "x")),
        "solid": Labels3DModel.parse(np.zeros((4, 64, 64), np.int64), dims=("z", "y", "x")),
    }
    spatialdata.SpatialData(images=images, labels=labels).write(tmp_path / "theirs.zarr")

    root = spatialdata_store.create(tmp_path / "ours.zarr")
    for name, image in images.items():
        spatialdata_store.create_image(
            root,
            name,
            image.shape,
            image.shape,
            image.dtype,
            image.coords["c"].values.tolist(),
            compressors=ZstdCodec(level=0),
        )
    for name, label in labels.items():
        spatialdata_store.create_labels(
            root, name, label.shape, label.shape, label.dtype, compressors=ZstdCodec(level=0)
        )
    spatialdata_store.consolidate(root)
    assert metadata(tmp_path / "ours.zarr") == metadata(tmp_path / "theirs.zarr")


def metadata(path: Path) -> dict[str, Any]:
    """All metadata but what differs between versions of SpatialData and says nothing.

    That is the name of a multiscale, which nothing reads, a shift by 0 pixels (0.8), and the copy
    of it all in the root.
    """
    found = {str(f.relative_to(path)): json.loads(f.read_text()) for f in path.rglob("zarr.json")}
    found["zarr.json"]["consolidated_metadata"] = sorted(
        found["zarr.json"]["consolidated_metadata"]["metadata"]
    )
    for node in found.values():
        for scales in node["attributes"].get("ome", {}).get("multiscales", []):
            del scales["name"]
            for level in scales["datasets"]:
                level["coordinateTransformations"] = [
                    step
                    for step in level["coordinateTransformations"]
                    if any(step.get("translation", [1]))
                ]
    return found


def test_an_image_needs_a_name_for_each_channel(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "store.zarr")
    with pytest.raises(InputError, match="1 channel names for 2 channels"):
        spatialdata_store.create_image(root, "image", (2, 8, 8), (1, 8, 8), "u2", ["a"])
    with pytest.raises(InputError, match="5 axes"):
        spatialdata_store.create_image(root, "image", (2, 1, 1, 8, 8), (1,) * 5, "u2", ["a", "b"])


# The embedded sample ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_ihc_is_a_store_that_spatialdata_opens(tmp_path: Path) -> None:
    fetch("ihc", tmp_path / "ihc.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "ihc.zarr")
    assert sdata["image"].coords["c"].values.tolist() == list(ihc.CHANNELS)
    assert sdata["image"].shape == (3, 512, 512)
    raster = open_raster(tmp_path / "ihc.zarr", "image", "labels")
    assert raster.channels == list(ihc.CHANNELS)
    assert raster.image.dtype == np.uint16
    np.testing.assert_array_equal(raster.image[...], ihc.stains())
    assert os.listdir(tmp_path) == ["ihc.zarr"]


def test_ihc_nuclei_are_whole_and_stained() -> None:
    stains = ihc.stains()
    labels = ihc.nuclei(stains[0])
    ids, areas = np.unique(labels, return_counts=True)
    assert ids.tolist() == list(range(len(ids)))
    assert 450 < len(ids) - 1 < 520
    assert areas[1:].min() >= ihc.SMALLEST_NUCLEUS
    for i, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        assert ndimage.label(labels[box] == i, np.ones((3, 3)))[1] == 1
    hematoxylin = stains[0].astype(float)
    assert hematoxylin[labels > 0].mean() > hematoxylin[labels == 0].mean() + 2000


def test_ihc_stains_hold_the_densities_of_rgb2hed() -> None:
    from skimage.color import rgb2hed
    from skimage.data import immunohistochemistry

    rgb = np.maximum(immunohistochemistry(), 1)
    density = np.moveaxis(rgb2hed(rgb), -1, 0) * 6  # its unit is 6 decades
    ours = (ihc.stains().astype(float) - ihc.PEDESTAL) / ihc.COUNTS_PER_DENSITY
    unclipped = (density > 0) & (ihc.stains() < 65535)
    np.testing.assert_allclose(ours[unclipped], density[unclipped], atol=1 / ihc.COUNTS_PER_DENSITY)


# Synthetic tissue -------------------------------------------------------------------------------


def test_tissue_is_seamless_whatever_the_tile() -> None:
    whole = Tissue((2, 1100, 700), seed=3)
    image, labels = tissue(whole.shape, seed=3)
    for rows, columns in [((0, 1100), (0, 1)), ((500, 530), (490, 700)), ((1024, 1100), (0, 600))]:
        part_image, part_labels = tissue_tile(whole, rows, columns)
        np.testing.assert_array_equal(part_image, image[:, slice(*rows), slice(*columns)])
        np.testing.assert_array_equal(part_labels, labels[slice(*rows), slice(*columns)])


def test_tissue_has_cells_that_touch_and_empty_places() -> None:
    image, labels = tissue((3, 1024, 1024), seed=1)
    assert image.dtype == np.uint16
    assert labels.dtype == np.uint32
    assert 1000 < len(np.unique(labels)) < 2500
    assert 0.2 < (labels > 0).mean() < 0.8
    beside = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    assert beside.sum() > 1000
    inside = image[0][labels > 0].mean()
    assert inside > 2 * image[0][labels == 0].mean()
    assert not np.array_equal(tissue((1, 64, 64), seed=1)[0], tissue((1, 64, 64), seed=2)[0])


def test_tissue_channels_of_a_module_go_together() -> None:
    image, labels = tissue((9, 1024, 1024), seed=0)
    ids = np.unique(labels)[1:]
    levels = np.log([ndimage.mean(plane, labels, ids) for plane in image])
    correlation = np.corrcoef(levels)
    assert correlation[0, 4] > 0.6
    assert correlation[0, 4] > correlation[0, 5]


@pytest.mark.parametrize("rows", [(0, 65), (-1, 5), (5, 5)])
def test_a_region_outside_the_tissue_is_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="not inside"):
        tissue_tile(Tissue((1, 64, 64)), rows, (0, 64))


# The registry -----------------------------------------------------------------------------------


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose from ihc, tissue"):
        fetch("liver", tmp_path / "liver.zarr")


def test_every_registered_set_is_made_or_has_a_digest() -> None:
    for name, dataset in REGISTRY.items():
        assert name == dataset.name
        if dataset.sha256 is None:
            assert dataset.origin.startswith("harpy_core.datasets.")
        else:
            assert re.fullmatch("[0-9a-f]{64}", dataset.sha256)
            assert dataset.origin.startswith("https://")


# Downloads --------------------------------------------------------------------------------------


@dataclass
class Server:
    """What a real HTTP server gives, and what it was asked.

    Each request meets one of the troubles while there are any: a status below 600 is the answer, a
    larger number the byte at which the line breaks.
    """

    content: bytes
    tag: str | None = '"one"'
    troubles: list[int] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.requests.append(dict(self.headers))
            trouble = server.troubles.pop(0) if server.troubles else len(server.content)
            if trouble < 600:
                self.send_error(trouble)
                return
            body, first = server.content, 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and self.headers.get("If-Range") == server.tag:
                first = int(wanted[1])
                if first >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                span = f"bytes {first}-{len(body) - 1}/{len(body)}"
                self.send_header("Content-Range", span)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - first))
            if server.tag:
                self.send_header("ETag", server.tag)
            self.end_headers()
            self.wfile.write(body[first:trouble])
            if trouble < len(body):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(np.random.default_rng(0).bytes(3_000_000))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/store.zip"
        yield state
        running.shutdown()
        thread.join()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_download_is_whole_and_leaves_nothing_else(tmp_path: Path, server: Server) -> None:
    download(server.url, tmp_path / "store.zip", digest(server.content))
    assert (tmp_path / "store.zip").read_bytes() == server.content
    assert os.listdir(tmp_path) == ["store.zip"]
    download(server.url, tmp_path / "store.zip", digest(server.content))
    assert len(server.requests) == 1


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.troubles = [1_000_000, 2_500_000]
    download(server.url, tmp_path / "store.zip", digest(server.content), pause=0.01)
    assert (tmp_path / "store.zip").read_bytes() == server.content
    assert len(server.requests) == 3
    assert "Range" not in server.requests[0]
    assert server.requests[1]["If-Range"] == '"one"'
    assert [int(r["Range"][6:-1]) > 0 for r in server.requests[1:]] == [True, True]


def test_another_process_goes_on_where_the_first_gave_up(tmp_path: Path, server: Server) -> None:
    server.troubles = [1_000_000, *[503] * (ATTEMPTS - 1)]
    with pytest.raises(InputError, match="goes on where it stopped"):
        download(server.url, tmp_path / "store.zip", digest(server.content), pause=0.001)
    assert sorted(os.listdir(tmp_path)) == ["store.zip.part", "store.zip.part.json"]
    held = (tmp_path / "store.zip.part").stat().st_size
    assert held > 0
    server.requests.clear()
    download(server.url, tmp_path / "store.zip", digest(server.content))
    assert [request["Range"] for request in server.requests] == [f"bytes={held}-"]
    assert (tmp_path / "store.zip").read_bytes() == server.content


def test_a_file_that_changed_on_the_server_is_fetched_anew(tmp_path: Path, server: Server) -> None:
    (tmp_path / "store.zip.part").write_bytes(b"old" * 1000)
    facts = {"url": server.url, "validator": '"zero"'}
    (tmp_path / "store.zip.part.json").write_text(json.dumps(facts))
    download(server.url, tmp_path / "store.zip", digest(server.content))
    assert server.requests[0]["If-Range"] == '"zero"'
    assert (tmp_path / "store.zip").read_bytes() == server.content


def test_a_part_that_is_whole_is_taken(tmp_path: Path, server: Server) -> None:
    (tmp_path / "store.zip.part").write_bytes(server.content)
    facts = {"url": server.url, "validator": server.tag}
    (tmp_path / "store.zip.part.json").write_text(json.dumps(facts))
    download(server.url, tmp_path / "store.zip", digest(server.content))
    assert (tmp_path / "store.zip").read_bytes() == server.content


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_validator_a_broken_download_starts_over(
    tmp_path: Path, server: Server, tag: str | None
) -> None:
    server.tag = tag
    server.troubles = [1_000_000]
    download(server.url, tmp_path / "store.zip", digest(server.content), pause=0.01)
    assert all("Range" not in request for request in server.requests)
    assert (tmp_path / "store.zip").read_bytes() == server.content


def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.troubles = [503, 429]
    download(server.url, tmp_path / "store.zip", digest(server.content), pause=0.01)
    assert len(server.requests) == 3


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match="instead of"):
        download(server.url, tmp_path / "store.zip", "0" * 64)
    assert os.listdir(tmp_path) == []


def test_a_missing_file_is_told_at_once(tmp_path: Path, server: Server) -> None:
    server.troubles = [404]
    with pytest.raises(InputError, match="404") as caught:
        download(server.url, tmp_path / "store.zip", "0" * 64)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_no_server_is_told_after_some_attempts(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.zip"
        with pytest.raises(InputError, match="cannot be fetched"):
            download(url, tmp_path / "x.zip", "0" * 64, pause=0.001)
    with pytest.raises(InputError, match="http"):
        download("file:///etc/hostname", tmp_path / "x.zip", "0" * 64)


def test_a_zipped_store_is_fetched_unpacked_and_opened(tmp_path: Path, server: Server) -> None:
    root = spatialdata_store.create(tmp_path / "made" / "sdata.zarr")
    image = spatialdata_store.create_image(root, "image", (2, 8, 8), (1, 8, 8), "u2", ["a", "b"])
    image[...] = np.arange(128).reshape(2, 8, 8)
    spatialdata_store.create_labels(root, "labels", (8, 8), (8, 8), "u4")[...] = 1
    archive = tmp_path / "sdata.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in (tmp_path / "made").rglob("*"):
            opened.write(file, file.relative_to(tmp_path / "made"))
        opened.writestr("__MACOSX/sdata.zarr/._zarr.json", "x")
    server.content = archive.read_bytes()
    fetch_archive(server.url, digest(server.content), tmp_path / "data" / "fetched.zarr")
    assert os.listdir(tmp_path / "data") == ["fetched.zarr"]
    found = open_raster(tmp_path / "data" / "fetched.zarr", "image", "labels")
    np.testing.assert_array_equal(found.image[...], image[...])


# Archives that are not to be trusted ------------------------------------------------------------


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            opened.writestr(name, content)
    return path


def link_entry() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("store/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name",
    ["../outside", "store/../../outside", "/etc/outside", "store\\..\\outside", "c:/outside"],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "bad.zip", ("store/zarr.json", b"{}"), (name, b"x"))
    with pytest.raises(InputError, match="zip plain files only"):
        unzip(archive, tmp_path / "out" / "store.zarr")
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "out" / "store.zarr").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bad.zip", (link_entry(), b"/etc/passwd"))
    with pytest.raises(InputError, match="a link"):
        unzip(archive, tmp_path / "store.zarr")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bad.zip", ("a/x", b"1"), ("a/x", b"2"))
    with pytest.raises(InputError, match="two entries"):
        unzip(archive, tmp_path / "store.zarr")


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harpy_core.datasets.download.SMALL", 1 << 20)
    archive = zipped(tmp_path / "bomb.zip", ("a/x", bytes(50_000_000)))
    with pytest.raises(InputError, match="would unpack to 50000000 bytes"):
        unzip(archive, tmp_path / "store.zarr")


def test_a_size_that_lies_and_a_damaged_byte_are_noticed(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(5000)
    for change in ("size", "byte"):
        archive = zipped(tmp_path / f"{change}.zip", ("a/x", content))
        raw = bytearray(archive.read_bytes())
        if change == "size":
            at = raw.rindex(b"PK\x01\x02") + 24
            raw[at : at + 4] = (100).to_bytes(4, "little")
        else:
            raw[2000] ^= 1
        archive.write_bytes(raw)
        with pytest.raises(InputError, match="no whole zip"):
            unzip(archive, tmp_path / "store.zarr")
        assert not (tmp_path / "store.zarr").exists()


def test_a_text_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="no whole zip"):
        unzip(tmp_path / "x.zip", tmp_path / "store.zarr")


def test_the_default_tissue_is_a_store(tmp_path: Path) -> None:
    fetch("tissue", tmp_path / "tissue.zarr")
    image = zarr.open_array(tmp_path / "tissue.zarr/images/image/s0", mode="r")
    labels = zarr.open_array(tmp_path / "tissue.zarr/labels/labels/s0", mode="r")
    assert image.shape == (4, 2048, 2048)
    part_image, part_labels = tissue_tile(Tissue((4, 2048, 2048)), (1000, 1100), (900, 1100))
    np.testing.assert_array_equal(image[:, 1000:1100, 900:1100], part_image)
    np.testing.assert_array_equal(labels[1000:1100, 900:1100], part_labels)
