"""One of the processes of a distributed training, in a module that is imported quickly."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from harpy_core.training.dataset import CropDataset

EPOCHS = 2


def train(rank: int, dataset: CropDataset, folder: str, context: str, workers: int) -> None:
    """Train on a rank's share; leaves what it read and what it learned in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2
    )
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(5, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    epochs = []
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        seen = []
        for image, ids in loader:
            optimiser.zero_grad()
            # The gradient is averaged over both ranks: one with a batch more would hang here.
            model(image.mean(dim=(2, 3, 4))).square().mean().backward()
            optimiser.step()
            seen.append(ids.tolist())
        assert len(seen) == dataset.steps(workers)
        epochs.append(seen)
    weights = [float(w) for p in model.parameters() for w in p.detach().flatten()]
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps((epochs, weights)))
    torch.distributed.destroy_process_group()
