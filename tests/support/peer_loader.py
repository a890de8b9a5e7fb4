"""Reads a store of crops with Harpy's data set, in an environment of its own.

python peer_loader.py STORE OUT.npz
"""

import sys

import harpy as hp
import numpy as np
import zarr


def main(store: str, out: str) -> None:
    """One shuffled epoch through two loader workers; leaves crops, ids and rows."""
    ids = zarr.open_group(store, mode="r")["instance_id"][:]
    dataset = hp.tb.ZarrIterableInstances(
        f"{store}/image",
        ids,
        labels=(ids % 3).astype(np.int64),
        normalize="none",
        shuffle_chunks=True,
        shuffle_within_chunk=True,
        buffer_seed=0,
    )
    loader = hp.tb.ZarrDataLoader(dataset, batch_size=8, num_workers=2)
    batches = [[part.numpy() for part in batch] for batch in loader]
    image, label, number, row = (np.concatenate(part) for part in zip(*batches, strict=True))
    np.savez(out, image=image, label=label, id=number, row=row)


if __name__ == "__main__":
    main(*sys.argv[1:])
