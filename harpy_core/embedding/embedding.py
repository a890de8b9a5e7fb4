"""Embeddings of crops: a model over all crops of a store, committed part by part."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core import __version__
from harpy_core.aggregate.store import quiet_consolidation, write_table
from harpy_core.embedding.models import Model, open_model
from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.provenance import source_digest
from harpy_core.running.progress import track
from harpy_core.storage import codecs
from harpy_core.storage.checksums import crc32c
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import digest_of
from harpy_core.training.batches import CropBatches
from harpy_core.training.normalisation import Normalise, channel_numbers, crop_percentiles

if TYPE_CHECKING:
    from anndata import AnnData

PART = 4096
"""Crops that are committed together, at least: whole chunks of the store."""


def embed(
    crops: Crops | str | os.PathLike[str],
    model: Any,
    path: str | os.PathLike[str],
    *,
    obsm: str = "X_embedding",
    batch_size: int = 256,
    channels: Sequence[int] | Sequence[str] | None = None,
    normalise: Normalise = "dtype",
    device: str = "auto",
    threads: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> AnnData:
    """Run a model over all crops of a store, and write its numbers as an AnnData store.

    Crops go through the model in the order of the store, in batches whose bounds do not depend on
    where a run was stopped: the same model gives the same numbers. Memory holds two decoded chunks
    of the channels in use, a batch, and the numbers of some 4,096 crops. A run that died resumes
    where it stopped, if it is known what the model computes.

    Parameters
    ----------
    crops
        Store that `harpy_core.extract_instances` wrote.
    model
        Path of an ONNX file with one input; a PyTorch module; a function of NumPy arrays; or
        ``module:name`` of either, in the working directory or installed. It is given (n, c, y, x)
        float32, or (n, c, z, y, x) for crops with several planes, and returns a row for each crop.
    path
        Folder of the result, which appears when it is complete.
    obsm
        Name of the numbers in obsm.
    batch_size
        Crops that the model is given at a time.
    channels
        Names or numbers of the channels, in the model's order; None for all.
    normalise
        As in `harpy_core.CropBatches`; None gives pixels as float32.
    device
        ``cpu``, ``cuda``, or ``auto``: a GPU where the model's library finds one.
    threads
        Threads of the model; None leaves them to its library.
    resume
        Resume from what an earlier, interrupted run committed.
    overwrite
        Replace what exists at `path`.
    progress
        Show a progress bar.

    Returns
    -------
    anndata.AnnData
        obs ``instance_id``, in the order of the crops and named after it, so that
        ``table.obsm[name] = found[table.obs_names].obsm[name]``; `obsm`, (instances, k) float32;
        uns ``harpy_core``: provenance.

    Raises
    ------
    InputError
        There is no such model or channel, the model fails, or the path is taken.
    """
    import anndata

    target = Path(path)
    store = crops if isinstance(crops, Crops) else open_crops(crops)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already there; choose another path, or give overwrite=True")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: give at least 1")
    if len(store) == 0:
        raise InputError(f"{store.path}: no crops in it")
    if not obsm or "/" in obsm:
        raise InputError(f"obsm = {obsm!r}: give a name without /")
    opened = open_model(model, device, threads)
    job = _Embedding.of(store, opened, obsm, batch_size, channels, normalise)
    with sole_writer(target):
        job.run(target, resume and opened.digest is not None, progress)
    return anndata.read_zarr(target)


@dataclass(frozen=True, slots=True)
class _Embedding:
    """A model and the crops that it is run over."""

    crops: Crops
    model: Model
    obsm: str
    batch_size: int
    channels: list[int]
    normalise: Normalise
    part: int

    @classmethod
    def of(
        cls,
        crops: Crops,
        model: Model,
        obsm: str,
        batch_size: int,
        channels: Sequence[int] | Sequence[str] | None,
        normalise: Normalise,
    ) -> _Embedding:
        """Decide on channels, batches and parts."""
        numbers = channel_numbers(crops, channels)
        if isinstance(normalise, str) and normalise == "percentile":
            normalise = crop_percentiles(crops, channels=numbers)
        chunk = crops.image.chunks[0]
        size = model.batch or min(batch_size, len(crops))
        return cls(crops, model, obsm, size, numbers, normalise, -(-PART // chunk) * chunk)

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers follow from, beside the pixels."""
        normalise = self.normalise
        if normalise is not None and not isinstance(normalise, str):
            normalise = tuple(np.asarray(limits).tolist() for limits in normalise)
        return {
            "crops": self.crops.digest,
            "model": self.model.digest or self.model.name,
            "obsm": self.obsm,
            "batch_size": self.batch_size,
            "channels": [self.crops.channels[number] for number in self.channels],
            "normalise": normalise,
        }

    def run(self, target: Path, resume: bool, progress: bool) -> None:
        """Embed what is not committed yet, and move the result to its place."""
        name = digest_of([self.settings, source_digest(__name__)])[:16]
        work = WorkFolder(target, name)
        width = self._width()
        work.begin(lambda folder: self._make(folder, width), resume)
        done = work.records()
        with track(len(self.crops), "embed", unit="crop", enabled=progress) as bar:
            for number, first in enumerate(range(0, len(self.crops), self.part)):
                last = min(first + self.part, len(self.crops))
                if str(number) not in done:
                    self._commit(work, number, self._numbers(first, last, width))
                bar.advance(last - first)
        with quiet_consolidation():
            zarr.consolidate_metadata(work.store)
        work.finish(("obsm",))

    def _batches(self, first: int, last: int) -> CropBatches:
        return CropBatches(
            self.crops,
            batch_size=self.batch_size,
            channels=self.channels,
            index=self.crops.instance_id[first:last],
            squeeze_z=self.crops.image.shape[2] == 1,
            normalise=self.normalise,
            shuffle=False,
        )

    def _width(self) -> int:
        """Return the number of numbers that the model gives for a crop."""
        image = next(self._batches(0, 1).batches()).image
        found: int = self.model(image.astype(np.float32, copy=False)).shape[1]
        return found

    def _numbers(self, first: int, last: int, width: int) -> np.ndarray:
        found = np.empty((last - first, width), np.float32)
        done = 0
        for batch in self._batches(first, last).batches():
            numbers = self.model(batch.image.astype(np.float32, copy=False))
            if numbers.shape[1] != width:
                raise InputError(
                    f"model {self.model.name} returned {numbers.shape[1]} numbers for a crop, and "
                    f"{width} before: it must always return as many"
                )
            found[done : done + len(numbers)] = numbers
            done += len(numbers)
        return found

    def _commit(self, work: WorkFolder, number: int, found: np.ndarray) -> None:
        if len(found) < self.part:
            more = np.zeros((self.part - len(found), found.shape[1]), np.float32)
            found = np.concatenate([found, more])
        encoded, checksum = codecs.encode("lz4", found)
        place = work.store / "obsm" / self.obsm / "c" / str(number) / "0"
        work.commit(str(number), place, [encoded, checksum], crc32c(checksum))

    def _make(self, folder: Path, width: int) -> None:
        """Write all but the numbers."""
        import pandas as pd
        from anndata import AnnData

        ids = self.crops.instance_id
        rows = pd.Index(ids.astype(str), dtype=object)
        settings = {**self.settings, "normalise": json.dumps(self.settings["normalise"])}
        table = AnnData(
            obs=pd.DataFrame({"instance_id": ids}, index=rows),
            uns={"harpy_core": {"version": __version__, **settings}},
        )
        group = write_table(folder, table)
        kind = np.dtype(np.float32)
        group.require_group("obsm").create_array(
            self.obsm,
            shape=(len(ids), width),
            chunks=(self.part, width),
            dtype=kind,
            compressors=codecs.compressors("lz4", kind),
            attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
        )
