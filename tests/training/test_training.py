"""The crops as a PyTorch data set: in this process, in workers, on many ranks."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from crop_cases import OPTIONS, extracted, tissue

import harpy_core as hc
from harpy_core.extract.crops import Crops

torch = pytest.importorskip("torch")

from torch import multiprocessing  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torch_rank import train  # noqa: E402

from harpy_core.training import lending  # noqa: E402
from harpy_core.training.dataset import CropDataset  # noqa: E402
from harpy_core.training.lending import Lender  # noqa: E402

# A loader's advice on how many workers a small machine should have.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Sixty-eight crops of five channels, and masks."""
    return extracted(tissue(), tmp_path_factory.mktemp("crops"), "zarr", **OPTIONS)


@pytest.fixture(scope="module")
def images(crops: Crops) -> dict[int, np.ndarray]:
    """The crop of each instance, as plain Zarr reads it."""
    group = zarr.open_group(crops.path, mode="r")
    return dict(zip(group["instance_id"][...].tolist(), group["image"][...], strict=True))


def loader(dataset: CropDataset, workers: int = 0, **options: Any) -> DataLoader:
    """The documented way to read a data set."""
    return DataLoader(dataset, batch_size=None, num_workers=workers, **options)


def check(batches: Iterable[Any], images: dict[int, np.ndarray]) -> list[int]:
    """Compare every crop; the instances in the order in which they came."""
    seen = []
    for image, ids in batches:
        assert type(image) is type(ids) is torch.Tensor
        assert ids.dtype == torch.int64
        for number, pixels in zip(ids.tolist(), image.numpy(), strict=True):
            np.testing.assert_array_equal(pixels, images[number])
            seen.append(number)
    return seen


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_has_every_crop_once(
    workers: int, crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops.path, batch_size=5, even="drop")
    found = list(loader(dataset, workers))
    assert len(found) == dataset.steps(workers)
    seen = check(found, images)
    assert len(seen) == len(set(seen)) == len(crops) - len(crops) % max(workers, 1)


def test_spawned_workers_read_what_forked_ones_do(
    crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops, batch_size=9)
    orders = [
        check(loader(dataset, 2, multiprocessing_context=kind), images)
        for kind in ("fork", "spawn")
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_lent_again_only_when_no_tensor_of_it_is_left(
    workers: int, crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops, batch_size=3)
    kept, parts = [], []
    for _ in range(3):
        for number, (image, ids) in enumerate(loader(dataset, workers)):
            if number % 3 == 0:
                kept.append((image, ids.clone()))
            elif number % 3 == 1:
                # A view of a batch, and an array of it, hold its memory too.
                parts.append((image[1:2], ids[1:2].clone(), image.numpy()[:1], ids.numpy()[:1]))
            del image, ids
    assert check(kept, images)
    assert check(((image, ids) for image, ids, _, _ in parts), images)
    for _, _, image, ids in parts:
        np.testing.assert_array_equal(image[0], images[int(ids[0])])


def test_memory_is_lent_again(crops: Crops) -> None:
    lender = Lender(shared=False)
    layout = {"image": ((4, 1000), np.dtype("u2")), "id": ((4,), np.dtype("i8"))}
    places = set()
    for _ in range(10):
        batch = lender.lend(layout)
        places.add(batch["image"].data_ptr())
        assert batch["id"].data_ptr() % 64 == batch["image"].data_ptr() % 64
        del batch
    assert len(places) == 1
    held = [lender.lend(layout)["id"] for _ in range(50)]
    assert len({one.data_ptr() for one in held}) == 50


def test_workers_memory_is_lent_again_and_let_go_at_their_end(crops: Crops) -> None:
    dataset = CropDataset(crops, batch_size=2)
    batches = iter(loader(dataset, 1))
    places = {image.data_ptr() for image, _ in batches}
    assert len(places) < 10 < dataset.steps(1)
    assert lending._known
    del batches
    gc.collect()
    multiprocessing.active_children()
    gc.collect()
    assert not lending._known


class WithPrevious:
    """Gives the batch before along with each, so that some memory is sent twice."""

    def __init__(self) -> None:
        self.before: tuple[Any, ...] | None = None

    def __call__(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        given = (*batch, *(self.before or batch))
        self.before = batch
        return given


def test_memory_that_was_sent_twice_is_lent_again_when_both_are_gone(
    crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops, batch_size=2)
    reading = loader(dataset, 1, collate_fn=WithPrevious(), persistent_workers=True)
    places, befores = set(), []
    for _ in range(4):
        for image, ids, before, ids_before in reading:
            places.add(image.data_ptr())
            befores = [*befores[-4:], (before, ids_before.clone())]
            del image, ids, before, ids_before
            check(befores, images)
    assert len(places) < 20 < dataset.steps(1)


def test_persistent_workers_use_the_same_memory_in_every_epoch(crops: Crops) -> None:
    reading = loader(CropDataset(crops, batch_size=2), 1, persistent_workers=True)
    places = set()
    for _ in range(5):
        kept = [image.data_ptr() for image, _ in reading]
        places.update(kept)
    assert len(places) < 10
    # More than is kept of it, at once: what is beyond goes when it is no longer used.
    assert len(list(reading)) > lending._MOST
    assert len(lending._known) <= lending._MOST


class Halved:
    """Change a batch within a worker, as a user's transform does."""

    def __call__(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        image, ids = batch
        assert isinstance(image, torch.Tensor)
        for other in (copy(image), deepcopy(image), pickle.loads(pickle.dumps(image))):
            assert torch.equal(other, image)
        return image / 2, ids, image[:, :1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_can_be_worked_on_within_a_worker(
    workers: int, crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops, batch_size=5, normalise="dtype")
    found = list(loader(dataset, workers, collate_fn=Halved()))
    assert {number for _, ids, _ in found for number in ids.tolist()} == set(images)
    for halves, ids, first in found:
        for number, half, channel in zip(ids.tolist(), halves.numpy(), first.numpy(), strict=True):
            np.testing.assert_allclose(half * 2, images[number] / 65535, rtol=1e-6)
            np.testing.assert_array_equal(channel, 2 * half[:1])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_follow_the_epoch(persistent: bool, crops: Crops) -> None:
    dataset = CropDataset(crops, batch_size=5)
    reading = loader(dataset, 2, persistent_workers=persistent)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append([number for _, ids in reading for number in ids.tolist()])
    assert orders[0] == orders[2] != orders[1]


def test_an_iteration_that_is_given_up_does_not_harm_the_next(
    crops: Crops, images: dict[int, np.ndarray]
) -> None:
    reading = loader(CropDataset(crops, batch_size=2), 2, persistent_workers=True)
    for _ in range(3):
        for number, _ in enumerate(reading):
            if number == 3:
                break
    assert set(check(reading, images)) == set(images)


@pytest.mark.parametrize("workers", [0, 2])
def test_single_crops_are_batched_by_the_loader(
    workers: int, crops: Crops, images: dict[int, np.ndarray]
) -> None:
    dataset = CropDataset(crops, batch_size=None, labels=crops.instance_id % 3, squeeze_z=True)
    image, number, label = next(iter(dataset))
    assert image.shape == (5, 13, 13)
    assert label == number % 3
    seen = []
    for batch, ids, labels in DataLoader(dataset, batch_size=6, num_workers=workers):
        assert torch.equal(labels, ids % 3)
        seen += ids.tolist()
        for one, pixels in zip(ids.tolist(), batch.numpy(), strict=True):
            np.testing.assert_array_equal(pixels, images[one][:, 0])
    assert set(seen) == set(images)


def test_label_and_mask_follow_image_and_id(crops: Crops) -> None:
    masks = dict(zip(crops.instance_id.tolist(), np.asarray(crops.mask[...]), strict=True))
    labels = {int(number): float(number) for number in crops.instance_id}
    dataset = CropDataset(crops, batch_size=7, labels=labels, mask=True, normalise="crop")
    for workers in (0, 1):
        for image, ids, label, mask in loader(dataset, workers):
            assert image.dtype == label.dtype == torch.float32
            assert label.tolist() == ids.tolist()
            for number, one in zip(ids.tolist(), mask.numpy(), strict=True):
                np.testing.assert_array_equal(one, masks[number])


def test_ids_are_int64_unless_one_does_not_fit(tmp_path: Path) -> None:
    labels = np.kron(np.array([[1, 2**63 - 1], [5, 2**64 - 1]], "u8"), np.ones((6, 6), "u8"))
    image = np.ones((1, *labels.shape), "u2")
    for largest, dtype in ((2**64 - 1, torch.uint64), (2**63 - 1, torch.int64)):
        labels[labels == 2**64 - 1] = largest if dtype == torch.uint64 else 7
        crops = hc.extract_instances(image, labels, tmp_path / str(largest), diameter=6)
        for workers in (0, 1):
            ((_, ids),) = loader(CropDataset(crops), workers)
            assert ids.dtype == dtype
            assert sorted(ids.numpy().tolist()) == sorted(crops.instance_id.tolist())


def test_given_ranks_have_equal_shares(crops: Crops, images: dict[int, np.ndarray]) -> None:
    seen = [
        check(loader(CropDataset(crops, batch_size=4, rank=rank, ranks=3), 2), images)
        for rank in range(3)
    ]
    assert {len(one) for one in seen} == {-(-len(crops) // 6) * 2}
    assert set().union(*seen) == set(images)


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"ranks": 2}, {"rank": 2, "ranks": 2}, {"rank": -1, "ranks": 2}]
)
def test_a_rank_that_cannot_be_is_told_in_one_line(options: dict[str, int], crops: Crops) -> None:
    with pytest.raises(hc.InputError, match="rank") as error:
        CropDataset(crops, **options)
    assert "\n" not in str(error.value)
    with pytest.raises(hc.InputError, match="epoch = -1"):
        CropDataset(crops).set_epoch(-1)


@pytest.mark.parametrize(("context", "workers"), [("fork", 3), ("spawn", 1)])
def test_two_processes_train_together_and_neither_waits(
    context: str, workers: int, crops: Crops, images: dict[int, np.ndarray], tmp_path: Path
) -> None:
    # Made before there is a process group: each process finds its own when it starts to read.
    dataset = CropDataset(crops, batch_size=5, normalise="percentile")
    multiprocessing.spawn(train, (dataset, str(tmp_path), context, workers), nprocs=2)
    found = [pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    (one, one_weights), (other, other_weights) = found
    assert one_weights == other_weights
    for epoch in range(2):
        assert [len(ids) for ids in one[epoch]] == [len(ids) for ids in other[epoch]]
        seen = [number for ids in (*one[epoch], *other[epoch]) for number in ids]
        assert set(seen) == set(images)
        assert len(crops) <= len(seen) < len(crops) + 2 * workers
    assert one[0] != one[1]


def test_without_pytorch_the_rest_works_and_one_line_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from harpy_core import *\n"
        "import harpy_core as hc\n"
        "assert hc.CropBatches\n"
        "hc.CropDataset"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CropDataset needs PyTorch" in done.stderr.splitlines()[-1]


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Small tensors are slower on many threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
