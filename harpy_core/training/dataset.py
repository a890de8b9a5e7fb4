"""Crops as PyTorch tensors, for training on one device or on many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

try:
    import torch
    from torch import distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:
    raise ImportError(f"CropDataset needs PyTorch ({error}): pip install torch") from error

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.training.batches import CropBatches, Layout
from harpy_core.training.lending import Lender


class CropDataset(IterableDataset):
    """The crops of a store, in shuffled batches, for a `torch.utils.data.DataLoader`.

    ::

        dataset = CropDataset("crops.zarr", batch_size=256, normalise="percentile")
        loader = DataLoader(dataset, batch_size=None, num_workers=4)
        for epoch in range(epochs):
            dataset.set_epoch(epoch)
            for image, instance_id in loader:
                ...

    Each item is (image, instance id), followed by the label if `labels` are given and by the mask
    if it is asked for: tensors of shapes (n, c, z, y, x), (n,), (n, …) and
    (n, 1, z, y, x), or those of one crop, without n, where `batch_size` is None. Ids are int64, or
    uint64 where one of the store's does not fit; labels are int64 or float32; images are float32,
    or of the stored type with ``normalise=None``.

    Each loader worker of each rank reads its own share, all of one length, in batches of the same
    sizes: no rank waits for another. What a worker reads depends on the seed, the epoch, its number
    and rank, and the numbers of workers and ranks.

    Parameters
    ----------
    crops
        Store of crops, or its path.
    batch_size
        Crops in a batch; None yields them one by one, to be batched by the loader.
    rank, ranks
        Number of this process, and of all processes that train together; None asks
        `torch.distributed` when iteration starts: 0 of 1 where no process group is initialised.
    **options
        Options of `harpy_core.training.batches.CropBatches`: channels, index, labels, mask,
        squeeze_z, normalise, shuffle, mix, seed, even, drop_last.

    Raises
    ------
    InputError
        See `CropBatches`; or a rank is given without ranks, or the other way round.
    """

    def __init__(
        self,
        crops: Crops | str | os.PathLike[str],
        *,
        batch_size: int | None = 64,
        rank: int | None = None,
        ranks: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if (rank is None) != (ranks is None):
            raise InputError(f"rank = {rank}, ranks = {ranks}: give both or neither")
        if rank is not None and ranks is not None and not 0 <= rank < ranks:
            raise InputError(f"rank = {rank}: there are {ranks}, counted from 0")
        self._given = None if rank is None or ranks is None else (rank, ranks)
        self._single = batch_size is None
        self._batches = CropBatches(
            crops if isinstance(crops, Crops) else open_crops(crops),
            batch_size=1 if batch_size is None else batch_size,
            **options,
        )
        largest = self._batches.crops.instance_id.max()
        self._id = np.dtype(np.int64 if largest < 2**63 else np.uint64)
        # Shared, so that workers that outlive an epoch see the next.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._lenders: dict[int, Lender] = {}

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; call it before each one, on every rank alike."""
        if epoch < 0:
            raise InputError(f"epoch = {epoch}: at least 0")
        self._epoch[0] = epoch

    def steps(self, num_workers: int = 0) -> int:
        """Number of items that each rank gets in an epoch from a loader with `num_workers`."""
        workers = max(num_workers, 1)
        return workers * self._batches.steps(self._group()[1] * workers)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        rank, ranks = self._group()
        lender = self._lender_of(os.getpid(), in_worker=worker is not None)

        def allocate(layout: Layout) -> dict[str, torch.Tensor]:
            shape, _ = layout["instance_id"]
            return lender.lend({**layout, "instance_id": (shape, self._id)})

        for batch in self._batches.filled(
            int(self._epoch), rank * workers + number, ranks * workers, allocate
        ):
            names = ("image", "instance_id", "label", "mask")
            item = tuple(batch[name] for name in names if name in batch)
            yield tuple(one[0] for one in item) if self._single else item

    def _lender_of(self, process: int, in_worker: bool) -> Lender:
        """Lender of memory for batches, kept from epoch to epoch; each process has its own."""
        if process not in self._lenders:
            # The loader copies single crops together before they go to another process.
            self._lenders = {process: Lender(shared=in_worker and not self._single)}
        return self._lenders[process]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with rank and ranks: a spawned worker has no process group to ask."""
        given = self._group() if _in_group() else self._given
        return {**self.__dict__, "_given": given, "_lenders": {}}

    def _group(self) -> tuple[int, int]:
        if self._given is not None:
            return self._given
        return (distributed.get_rank(), distributed.get_world_size()) if _in_group() else (0, 1)


def _in_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
