"""Embeddings of crops: a model over all crops of a store, committed part by part.

A part is a task: it needs the store, the model, and the folder where it is committed, so that any
process can do it, and each opens the store and the model once.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core.aggregate.store import quiet_consolidation, write_table
from harpy_core.embedding.models import Model, Named, open_model
from harpy_core.embedding.parts import part_of
from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.provenance import source_digest
from harpy_core.running import schedule
from harpy_core.running.progress import track
from harpy_core.storage import codecs
from harpy_core.storage.checksums import crc32c
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.folders import address_of, local
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import digest_of
from harpy_core.training.batches import CropBatches
from harpy_core.training.normalisation import Normalise, channel_numbers, crop_percentiles
from harpy_core.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client


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
    client: Client | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> AnnData:
    """Run a model over all crops of a store, and write its numbers as an AnnData store.

    Crops go through the model in the order of the store, in batches whose bounds do not depend on
    where a run was stopped, or on how many workers there are: the same model gives the same
    numbers. Memory of a process holds two decoded chunks of the channels in use, a batch, and the
    numbers of some 4,096 crops. A run that died resumes where it stopped, if it is known what the
    model computes.

    Parameters
    ----------
    crops
        Store that `harpy_core.extract_instances` wrote.
    model
        Path of an ONNX file with one input, whose weights may lie in files beside it; a PyTorch
        module; a function of NumPy arrays; or ``module:name`` of either, in the working directory
        or installed. It is given (n, c, y, x) float32, or (n, c, z, y, x) for crops with several
        planes, and returns a row for each crop.
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
        Threads of the model; None leaves them to its library, or gives it all of a worker's.
    client
        Dask client: each of its workers takes some 4,096 crops at a time, with a model of its own,
        on its own GPU where it sees one. Workers must see the store, the result's folder and the
        model. None runs in this process.
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
        There is no such model or channel, the model fails, a worker has another model of that name,
        or the path is taken.
    """
    import anndata

    target = local(path)
    store = crops if isinstance(crops, Crops) else open_crops(crops)
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already there; choose another path, or give overwrite=True")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: give at least 1")
    if len(store) == 0:
        raise InputError(f"{store.path}: no crops in it")
    if not obsm or "/" in obsm:
        raise InputError(f"obsm = {obsm!r}: give a name without /")
    # Where there are workers the GPUs are theirs.
    opened = open_model(model, "cpu" if client is not None else device, threads)
    job = _Embedding.of(store, opened, obsm, batch_size, channels, normalise)
    named = None if client is None else Named.of(model, opened, device, threads)
    with sole_writer(target):
        job.run(target, resume and opened.digest is not None, progress, client, named)
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
        size = model.batch or min(batch_size, len(crops))
        return cls(crops, model, obsm, size, numbers, normalise, part_of(crops.image.chunks[0]))

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

    def run(
        self,
        target: Path,
        resume: bool,
        progress: bool,
        client: Client | None,
        named: Named | None,
    ) -> None:
        """Embed what is not committed yet, and move the result to its place.

        Parameters
        ----------
        client, named
            Workers, and the model as they open it; None for this process.
        """
        name = digest_of([self.settings, source_digest(__name__)])[:16]
        work = WorkFolder(target, name)
        width = self._width()
        work.begin(lambda folder: self._make(folder, width), resume)
        done = work.records()
        every = range(-(-len(self.crops) // self.part))
        left = [number for number in every if str(number) not in done]
        embedded: Iterable[int]
        if client is None or named is None:
            embedded = (self.embed(work, number, width) for number in left)
        else:
            tasks = [PartTask(self._job(named, work, width), number) for number in left]
            embedded = schedule.in_order(embed_part, tasks, client)
        with track(len(self.crops), "embed", unit="crop", enabled=progress) as bar:
            bar.advance(sum(len(self._rows(number)) for number in every if str(number) in done))
            for number in embedded:
                bar.advance(number)
        with quiet_consolidation():
            zarr.consolidate_metadata(work.store)
        work.finish(("obsm",))

    def embed(self, work: WorkFolder, number: int, width: int) -> int:
        """Embed and commit one part; returns its number of crops."""
        rows = self._rows(number)
        self._commit(work, number, self._numbers(rows.start, rows.stop, width))
        return len(rows)

    def _rows(self, number: int) -> range:
        return range(number * self.part, min((number + 1) * self.part, len(self.crops)))

    def _job(self, named: Named, work: WorkFolder, width: int) -> _Job:
        normalise = self.normalise
        if normalise is not None and not isinstance(normalise, str):
            low, high = (tuple(np.asarray(one).tolist()) for one in normalise)
            normalise = low, high
        return _Job(
            address_of(self.crops.path) or os.path.abspath(self.crops.path),
            json.dumps(self.crops.storage_options),
            self.crops.of_window,
            self.crops.digest,
            named,
            self.obsm,
            self.batch_size,
            tuple(self.channels),
            normalise,
            self.part,
            width,
            WorkFolder(work.target.absolute(), work.key),
        )

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


@dataclass(frozen=True, slots=True)
class _Job:
    """What a process needs to know of an embedding; see `_Embedding`."""

    crops: str
    options: str
    window: str | None
    digest: str
    model: Named
    obsm: str
    batch_size: int
    channels: tuple[int, ...]
    normalise: Any
    part: int
    width: int
    # Not a part of what is opened: it is another object in every task.
    work: WorkFolder = field(compare=False)

    def opened(self) -> _Embedding:
        """Open the store and the model.

        Raises
        ------
        InputError
            They are not the ones that the job was made for.
        """
        options = json.loads(self.options)
        crops = open_crops(self.crops, self.window, storage_options=options)
        if crops.digest != self.digest:
            raise InputError(f"{self.crops}: it has changed since the run began; run again")
        return _Embedding(
            crops,
            self.model.opened(),
            self.obsm,
            self.batch_size,
            list(self.channels),
            self.normalise,
            self.part,
        )


@dataclass(frozen=True, slots=True)
class PartTask:
    """One part of an embedding, for any process.

    Attributes
    ----------
    job
        The embedding.
    number
        Number of the part.
    """

    job: _Job
    number: int


_one_at_a_time = threading.Lock()
_opened: dict[_Job, _Embedding] = {}


def embed_part(task: PartTask) -> int:
    """Embed and commit one part; returns its number of crops.

    A process does one after the other, as models use all its threads, and keeps the last model.
    """
    job = task.job
    with _one_at_a_time:
        if job not in _opened:
            _opened.clear()
            _opened[job] = job.opened()
        return _opened[job].embed(job.work, task.number, job.width)
