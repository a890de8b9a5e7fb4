"""Batches of crops: every crop, whole and normalised, in a drawn order, in equal shares."""

from __future__ import annotations

import itertools
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from cases import Case, counted_reads
from crop_cases import OPTIONS, extracted, tissue

import harpy_core as hc
from harpy_core.extract.crops import Crops
from harpy_core.training.batches import Batch, CropBatches
from harpy_core.training.epochs import Even, block_order, share

EVENS: tuple[Even, ...] = ("pad", "drop")


def rows_of(shares: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Numbers of the instances that shares stand for."""
    return np.concatenate(
        [np.arange(first[b] + a, first[b] + z) for b, a, z in shares.tolist()] or [np.arange(0)]
    )


@pytest.mark.parametrize("even", EVENS)
@pytest.mark.parametrize("ranks", range(1, 10))
def test_shares_are_equal_and_whole_for_every_number_of_chunks_ranks_and_workers(
    ranks: int, even: Even
) -> None:
    for chunks, workers in itertools.product(range(1, 65), range(1, 6)):
        parts = ranks * workers
        sizes = np.full(chunks, 5)
        # The last chunk of a store may be partial, and the only one.
        sizes[-1] = 3
        instances = int(sizes.sum())
        order = block_order(chunks, seed=chunks, epoch=workers)
        shares = [share(sizes, order, part, parts, even) for part in range(parts)]
        first = np.cumsum(sizes) - sizes
        read = [rows_of(mine, first) for mine in shares]
        sequence = np.concatenate([np.arange(first[b], first[b] + sizes[b]) for b in order])
        length = -(-instances // parts) if even == "pad" else instances // parts
        expected = np.take(sequence, np.arange(parts * length), mode="wrap")
        assert {len(mine) for mine in read} == {length}
        assert np.array_equal(np.concatenate(read), expected)
        times = np.bincount(expected, minlength=instances)
        if even == "pad":
            assert times.min() >= 1
            assert times.sum() - instances < parts
        else:
            assert times.max() <= 1
            assert instances - times.sum() < parts
        reads = sum(map(len, shares))
        assert reads <= chunks + (parts - 1) * (2 if even == "pad" else 1)


@pytest.mark.parametrize("even", EVENS)
def test_neighbouring_shares_have_at_most_the_chunk_at_their_cut_in_common(even: Even) -> None:
    for chunks, parts in itertools.product((7, 24, 64), (2, 3, 7)):
        sizes = np.full(chunks, 11)
        order = block_order(chunks, 0, 0)
        shares = [share(sizes, order, part, parts, even)[:, 0].tolist() for part in range(parts)]
        # What is repeated is the beginning of the sequence.
        repeated = {order[0]} if even == "pad" else set()
        for one, other in itertools.pairwise(shares):
            assert set(one) & set(other) <= {one[-1]} | repeated


def odd_tissue() -> Case:
    """A tissue whose crops do not fill their last chunk."""
    case = tissue()
    case.labels[case.labels == case.labels.max()] = 0
    return case


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Some sixty crops of five channels, two in a chunk, and masks; the last chunk is partial."""
    found = extracted(odd_tissue(), tmp_path_factory.mktemp("crops"), "zarr", **OPTIONS)
    assert len(found) % 4 != 0
    assert found.image.chunks[:2] == (4, 2)
    return found


def stored(crops: Crops, array: str = "image") -> dict[int, np.ndarray]:
    """The crop of each instance, as plain Zarr reads it."""
    group = zarr.open_group(crops.path, mode="r")
    return dict(zip(group["instance_id"][...].tolist(), group[array][...], strict=True))


def ids_of(batches: list[Batch]) -> list[int]:
    """Instances in the order in which they come."""
    return [int(number) for batch in batches for number in batch.instance_id]


@pytest.mark.parametrize("mix", [1, 3, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 1000])
def test_an_epoch_has_every_crop_once_whatever_the_batch_size(
    batch_size: int, mix: int, crops: Crops
) -> None:
    batches = list(CropBatches(crops, batch_size=batch_size, mix=mix, mask=True).batches())
    images, masks = stored(crops), stored(crops, "mask")
    assert sorted(ids_of(batches)) == sorted(images)
    assert [len(batch.image) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        assert batch.image.dtype == np.uint16
        assert batch.mask is not None
        for number, image, mask in zip(batch.instance_id, batch.image, batch.mask, strict=True):
            np.testing.assert_array_equal(image, images[int(number)])
            np.testing.assert_array_equal(mask, masks[int(number)])


@pytest.mark.parametrize("dtype", ["b1", "u1", "i1", "u2", "i2", "u4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_pixels_of_every_type_come_as_they_are_stored(
    dtype: str, codec: str, tmp_path: Path
) -> None:
    found = extracted(tissue(dtype), tmp_path, "zarr", diameter=5, batch_size=16, codec=codec)
    images = stored(found)
    for batch in CropBatches(found, batch_size=7).batches():
        assert batch.image.dtype == found.image.dtype
        for number, image in zip(batch.instance_id.tolist(), batch.image, strict=True):
            np.testing.assert_array_equal(image, images[number])


def test_shards_are_read_by_their_chunks(tmp_path: Path) -> None:
    sharded = extracted(odd_tissue(), tmp_path, "zarr", **OPTIONS, shard_size=8)
    assert sharded.image.shards is not None
    images = stored(sharded)
    with counted_reads(sharded.image) as reads:
        batches = list(CropBatches(sharded, batch_size=5).batches())
    assert len(reads) == 3 * -(-len(sharded) // 4)
    assert set(reads.values()) == {1}
    assert sorted(ids_of(batches)) == sorted(images)
    for batch in batches:
        for number, image in zip(batch.instance_id.tolist(), batch.image, strict=True):
            np.testing.assert_array_equal(image, images[number])


def test_every_chunk_is_decoded_once_and_those_of_other_channels_not_at_all(crops: Crops) -> None:
    blocks = -(-len(crops) // 4)
    for channels, groups in ((None, [0, 1, 2]), ([4, 0], [0, 2]), ([3], [1])):
        with counted_reads(crops.image) as reads:
            list(CropBatches(crops, channels=channels, batch_size=9, mix=2).batches())
        expected = {(b, g, 0, 0, 0): 1 for b in range(blocks) for g in groups}
        assert dict(reads) == expected


def test_channels_come_in_the_order_asked_for_by_name_or_number(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    found = extracted(tissue(), tmp_path, "zarr", diameter=5, batch_size=4, channels=names)
    images = stored(found)
    for channels in (["e", "a", "d"], [4, 0, 3]):
        for batch in CropBatches(found, channels=channels).batches():
            for number, image in zip(batch.instance_id.tolist(), batch.image, strict=True):
                np.testing.assert_array_equal(image, images[number][[4, 0, 3]])


def test_z_is_kept_or_squeezed(crops: Crops, tmp_path: Path) -> None:
    batch = next(CropBatches(crops, mask=True, squeeze_z=True, batch_size=6).batches())
    assert batch.image.shape == (6, 5, 13, 13)
    assert batch.mask is not None
    assert batch.mask.shape == (6, 1, 13, 13)
    flat = tissue()
    deep = Case(
        np.stack([flat.image] * 3, axis=1),
        np.stack([flat.labels] * 3),
        (2, 3, 16, 16),
        (3, 60, 60),
        1,
    )
    found = extracted(deep, tmp_path, "zarr", diameter=5, batch_size=4)
    assert next(CropBatches(found, batch_size=6).batches()).image.shape == (6, 5, 3, 5, 5)
    with pytest.raises(hc.InputError, match="3 pixels along z"):
        CropBatches(found, squeeze_z=True)


def test_the_order_is_that_of_seed_and_epoch(crops: Crops) -> None:
    def order(epoch: int = 0, **options: Any) -> list[int]:
        return ids_of(list(CropBatches(crops, batch_size=5, **options).batches(epoch)))

    assert order(3, seed=7) == order(3, seed=7)
    assert order(3, mix=2) == order(3, mix=2)
    different = [order(0), order(1), order(2), order(0, seed=1), order(0, mix=2), order(0, mix=5)]
    assert len({tuple(one) for one in different}) == len(different)
    assert order(0, shuffle=False) == order(5, shuffle=False) == crops.instance_id.tolist()


def test_blocks_and_what_is_in_them_are_both_shuffled(crops: Crops) -> None:
    place = {number: row for row, number in enumerate(crops.instance_id.tolist())}
    rows = np.array([place[number] for number in ids_of(list(CropBatches(crops).batches()))])
    blocks = rows // 4
    assert len(list(itertools.groupby(blocks))) == -(-len(crops) // 4)
    later = np.array([place[number] for number in ids_of(list(CropBatches(crops).batches(1)))])
    assert [b for b, _ in itertools.groupby(later // 4)] != [
        b for b, _ in itertools.groupby(blocks)
    ]
    assert not np.all(np.diff(blocks) >= 0)
    assert any(np.any(np.diff(rows[blocks == block]) < 0) for block in set(blocks.tolist()))
    mixed = ids_of(list(CropBatches(crops, mix=4, batch_size=8).batches()))
    assert len({place[number] // 4 for number in mixed[:8]}) > 2


@pytest.mark.parametrize("even", EVENS)
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("parts", [2, 3, 7, 45])
def test_parts_have_equal_batches_and_all_crops_between_them(
    parts: int, drop_last: bool, even: Even, crops: Crops
) -> None:
    batches = CropBatches(crops, batch_size=5, even=even, drop_last=drop_last)
    read = [list(batches.batches(2, part, parts)) for part in range(parts)]
    sizes = [[len(batch.image) for batch in mine] for mine in read]
    assert all(one == sizes[0] == batches.batch_sizes(parts) for one in sizes)
    assert batches.steps(parts) == len(sizes[0])
    seen = [number for mine in read for number in ids_of(mine)]
    if drop_last:
        assert set(sizes[0]) <= {5}
    elif even == "pad":
        assert set(seen) == set(crops.instance_id.tolist())
    else:
        assert len(seen) == len(set(seen)) > len(crops) - parts
    images = stored(crops)
    for batch in itertools.chain(*read):
        for number, image in zip(batch.instance_id.tolist(), batch.image, strict=True):
            np.testing.assert_array_equal(image, images[number])


def test_more_parts_than_crops_repeat_them_or_are_refused(crops: Crops) -> None:
    few = crops.instance_id[:3]
    padded = CropBatches(crops, index=few)
    seen = [ids_of(list(padded.batches(part=part, parts=8))) for part in range(8)]
    assert {len(one) for one in seen} == {1}
    assert {one[0] for one in seen} == set(few.tolist())
    with pytest.raises(hc.InputError, match="3 instances for 8 parts") as error:
        next(CropBatches(crops, index=few, even="drop").batches(part=0, parts=8))
    assert "\n" not in str(error.value)


def test_only_the_instances_of_the_index_are_read(crops: Crops) -> None:
    chosen = crops.instance_id[[1, 2, 3, 17, 40]]
    images = stored(crops)
    batches = CropBatches(crops, index=chosen[::-1], batch_size=2)
    assert len(batches) == 5
    with counted_reads(crops.image) as reads:
        found = list(batches.batches())
    assert {index[0] for index in reads} == {0, 4, 10}
    assert sorted(ids_of(found)) == sorted(chosen.tolist())
    for batch in found:
        for number, image in zip(batch.instance_id.tolist(), batch.image, strict=True):
            np.testing.assert_array_equal(image, images[number])


def normalised(crops: Crops, **options: Any) -> dict[int, np.ndarray]:
    """Every crop as it comes out of a batch, by instance."""
    found = {}
    for batch in CropBatches(crops, batch_size=7, **options).batches():
        assert batch.image.dtype == np.float32
        found |= dict(zip(batch.instance_id.tolist(), batch.image, strict=True))
    return found


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "i8"])
def test_dtype_divides_by_the_largest_value(dtype: str, tmp_path: Path) -> None:
    crops = extracted(tissue(dtype), tmp_path, "zarr", diameter=5, batch_size=16)
    images = stored(crops)
    for number, image in normalised(crops, normalise="dtype").items():
        expected = images[number] / float(np.iinfo(dtype).max)
        np.testing.assert_allclose(image, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "f4", "f8"])
def test_crop_stretches_each_channel_of_each_crop(dtype: str, tmp_path: Path) -> None:
    case = tissue(dtype)
    case.image[2] = 7
    crops = extracted(case, tmp_path, "zarr", diameter=5, batch_size=16, remove_background=False)
    images = stored(crops)
    flat = 0
    for number, image in normalised(crops, normalise="crop", channels=[0, 2, 3]).items():
        pixels = images[number][[0, 2, 3]].astype(np.float64)
        low, high = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        flat += int(np.all(low[1] == high[1]))
        expected = np.divide(pixels - low, high - low, where=high > low, out=np.zeros_like(pixels))
        np.testing.assert_allclose(image, expected, rtol=1e-6, atol=1e-7)
    assert flat > 0


def test_percentiles_are_those_of_the_pixels_inside_the_instances(
    crops: Crops, tmp_path: Path
) -> None:
    coarse = {**OPTIONS, "batch_size": 16}
    masked = extracted(tissue(), tmp_path, "zarr", **coarse)
    images = np.stack(list(stored(masked).values()))
    inside = np.stack(list(stored(masked, "mask").values()))[:, 0] == 1
    pixels = np.moveaxis(images, 1, 0)[:, inside]
    for percentiles in ((1, 99), (25.5, 50)):
        low, high = hc.crop_percentiles(masked, percentiles, sample=10_000)
        expected = np.percentile(pixels, percentiles, axis=1)
        np.testing.assert_allclose([low, high], expected, rtol=1e-12)
    only = hc.crop_percentiles(masked, channels=[4, 1], sample=10_000)
    np.testing.assert_array_equal(
        only, [some[[4, 1]] for some in hc.crop_percentiles(masked, sample=10_000)]
    )


def test_without_masks_inside_is_where_any_channel_is_not_zero(tmp_path: Path) -> None:
    case = tissue()
    # Each pixel is 0 in all channels but one: no single one of them tells the inside.
    case.image[np.indices(case.image.shape).sum(axis=0) % 5 != 0] = 0
    coarse = {**OPTIONS, "batch_size": 16}
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    masked = extracted(case, tmp_path / "with", "zarr", **coarse)
    plain = extracted(case, tmp_path / "without", "zarr", **{**coarse, "extract_mask": False})
    np.testing.assert_array_equal(
        hc.crop_percentiles(plain, (70, 95), sample=10_000),
        hc.crop_percentiles(masked, (70, 95), sample=10_000),
    )


def test_a_sample_is_drawn_from_the_seed(crops: Crops) -> None:
    one, same, other = (hc.crop_percentiles(crops, sample=20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    with counted_reads(crops.image) as reads:
        hc.crop_percentiles(crops, channels=[0], sample=20)
    assert len(reads) == 8


@pytest.mark.parametrize("given", ["percentile", "pair"])
def test_percentiles_become_0_and_1_and_nothing_lies_beyond(given: str, crops: Crops) -> None:
    low, high = hc.crop_percentiles(crops, seed=3)
    images = stored(crops)
    normalise: Any = "percentile" if given == "percentile" else (low, high)
    low, high = (some.reshape(-1, 1, 1, 1) for some in (low, high))
    for number, image in normalised(crops, normalise=normalise, seed=3).items():
        expected = np.clip((images[number] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)


def test_a_channel_whose_low_is_its_high_becomes_0(crops: Crops) -> None:
    found = normalised(crops, normalise=([100, 5], [200, 5]), channels=[0, 1])
    assert all(np.all(image[1] == 0) for image in found.values())
    assert any(np.any(image[0] == 1) for image in found.values())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_crops_stored_with_a_scale_are_as_they_were_stored(dtype: str, tmp_path: Path) -> None:
    crops = extracted(tissue(), tmp_path, "zarr", **OPTIONS, dtype=dtype, scale=1 / 65535)
    assert crops.image.dtype == dtype
    images = stored(crops)
    for number, image in normalised(crops, normalise="dtype").items():
        np.testing.assert_array_equal(image, images[number].astype(np.float32))
    stretched = normalised(crops, normalise="crop")
    assert all(image.max() == 1 and image.min() == 0 for image in stretched.values())


@pytest.mark.parametrize("kind", ["mapping", "series", "array", "list"])
def test_labels_go_with_their_instances(kind: str, crops: Crops) -> None:
    truth = {int(number): int(number) % 3 for number in crops.instance_id}
    shuffled = dict(sorted(truth.items(), key=lambda item: hash(str(item))))
    labels: Any = {
        "mapping": {**shuffled, 10**12: 1},
        "series": pd.Series(shuffled),
        "array": crops.instance_id % 3,
        "list": [truth[number] for number in crops.instance_id.tolist()],
    }[kind]
    for batch in CropBatches(crops, labels=labels, batch_size=7).batches():
        assert batch.label is not None
        assert batch.label.dtype == np.int64
        assert batch.label.tolist() == [truth[number] for number in batch.instance_id.tolist()]


def test_labels_may_be_real_numbers_or_several(crops: Crops) -> None:
    real = crops.instance_id / 7
    several = np.stack([crops.instance_id % 2, crops.instance_id % 5], axis=1)
    for labels, dtype in ((real, np.float32), (several, np.int64)):
        for batch in CropBatches(crops, labels=labels, batch_size=7).batches():
            rows = [crops.instance_id.tolist().index(n) for n in batch.instance_id.tolist()]
            assert batch.label is not None
            assert batch.label.dtype == dtype
            np.testing.assert_array_equal(batch.label, labels[rows].astype(dtype))


def test_a_missing_label_is_told_in_one_line_and_may_be_left_out(crops: Crops) -> None:
    ids = crops.instance_id.tolist()
    whole = pd.Series(1, index=ids)
    nothing = [
        dict.fromkeys(ids[1:], 1),
        whole.drop(ids[0]),
        whole.astype("Int64").where(whole.index != ids[0]),
        np.where(crops.instance_id == ids[0], np.nan, 1.0),
    ]
    for labels in nothing:
        with pytest.raises(hc.InputError, match=f"1 of {len(ids)} instances") as error:
            CropBatches(crops, labels=labels)
        assert f"{ids[0]} first" in str(error.value)
        assert "\n" not in str(error.value)
        assert len(CropBatches(crops, labels=labels, index=ids[1:])) == len(ids) - 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"mix": 0}, "mix = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"even": "equal"}, "even = 'equal'"),
        ({"channels": ["DAPI"]}, "no channel 'DAPI'"),
        ({"channels": [5]}, "no channel 5"),
        ({"channels": []}, "at least one channel"),
        ({"channels": "0"}, "a list"),
        ({"index": [2, 10**12]}, "1 of 2 instances have no crop"),
        ({"index": []}, "no crops to read"),
        ({"index": [0]}, "positive"),
        ({"normalise": "minmax"}, "normalise = 'minmax'"),
        ({"normalise": ([0, 1], [1, 2])}, "each of 5 channels"),
        ({"normalise": (5, 1)}, "channel 0 goes from 5.0 to 1.0"),
        ({"normalise": (0, np.inf)}, "both finite"),
        ({"normalise": (0, 1, 2)}, "a pair"),
        ({"labels": [1, 2]}, "shape (2,)"),
        ({"labels": {2: "stroma"}}, "factorize"),
        ({"labels": {}}, "instances have none"),
        ({"labels": {"a": 1}}, "positive"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    options: dict[str, Any], words: str, crops: Crops
) -> None:
    with pytest.raises(hc.InputError) as error:
        CropBatches(crops, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, 1, 1), (0, 0, 0), (0, -1, 2)])
def test_an_epoch_or_part_that_cannot_be_is_told_in_one_line(
    arguments: tuple[int, int, int], crops: Crops
) -> None:
    with pytest.raises(hc.InputError) as error:
        next(CropBatches(crops).batches(*arguments))
    assert "\n" not in str(error.value)


def test_what_the_store_has_not_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = extracted(tissue("f4"), tmp_path / "real", "zarr", diameter=5)
    for options, words in (({"mask": True}, "no masks"), ({"normalise": "dtype"}, "largest value")):
        with pytest.raises(hc.InputError, match=words) as error:
            CropBatches(real, **options)
        assert "\n" not in str(error.value)
    nothing = Case(np.ones((1, 8, 8), "u2"), np.zeros((8, 8), "u4"), (1, 8, 8), (8, 8), 1)
    (tmp_path / "none").mkdir()
    empty = extracted(nothing, tmp_path / "none", diameter=5)
    with pytest.raises(hc.InputError, match="no crops to read"):
        CropBatches(empty)


def test_a_chunk_that_is_missing_or_broken_is_told_in_one_line(tmp_path: Path) -> None:
    crops = extracted(tissue(), tmp_path, "zarr", **OPTIONS)
    broken = crops.path / "image" / "c" / "3" / "1" / "0" / "0" / "0"
    content = broken.read_bytes()
    batches = CropBatches(crops)
    for damage in (lambda: broken.write_bytes(content[:-9]), broken.unlink):
        damage()
        with pytest.raises(hc.InputError, match="chunk") as error:
            list(batches.batches())
        assert "\n" not in str(error.value)
    broken.write_bytes(content)
    assert len(ids_of(list(batches.batches()))) == len(crops)


def test_batches_survive_pickling_and_the_next_batch(crops: Crops) -> None:
    batches = CropBatches(crops, batch_size=6, normalise="percentile", labels=crops.instance_id)
    kept = list(batches.batches(4))
    again = pickle.loads(pickle.dumps(batches)).batches(4)
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one.instance_id, other.instance_id)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


def test_no_thread_outlives_an_iteration_that_is_given_up(crops: Crops) -> None:
    before = threading.active_count()
    running = CropBatches(crops, batch_size=1).batches()
    next(running)
    running.close()
    assert threading.active_count() == before
