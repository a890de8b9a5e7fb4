"""Plan of a model's run over crops."""

from __future__ import annotations

import math

from harpy_core.config.crops import Extract
from harpy_core.config.measures import Embed
from harpy_core.embedding.onnx_files import onnx_files
from harpy_core.embedding.parts import part_of
from harpy_core.planning.parts import CELLS_PER_PIXEL, TASK_BYTES, Plan
from harpy_core.planning.shapes import WORD, TileShape
from harpy_core.raster.info import RasterInfo, itemsize
from harpy_core.statistics.own import OWN_NAME

MODEL_BYTES = 2 * 10**9
"""Memory that a model's library takes beside weights and batches: PyTorch and its CUDA context."""

COPIES_OF_WEIGHTS = 4
"""Size in memory of a model over that of its files."""

COPIES_OF_BATCH = 8
"""Size of what a model makes of a batch over the batch's own."""

WIDTH = 1024
"""Numbers that a model gives for each crop, assumed: nothing tells before it runs."""


def embed_plan(section: Embed, crops: Extract, info: RasterInfo, instances: int | None) -> Plan:
    """Plan the section embed of a case.

    Parameters
    ----------
    section, crops
        Sections of the config.
    info
        Raster of the case.
    instances
        Number of its instances, if known.
    """
    shape = TileShape.of(info)
    number = instances if instances is not None else math.ceil(shape.plane * CELLS_PER_PIXEL)
    if isinstance(crops.index, list):
        number = len(crops.index)
    used = len(section.channels or crops.channels or info.channels)
    window = math.prod(crops.window(shape.depth))
    # Channels that are not used lie in the same chunks, at most all.
    chunk = len(crops.channels or info.channels) * window * itemsize(crops.dtype or shape.dtype)
    part = part_of(crops.batch_size)
    result = number * WIDTH * 4
    files = [] if OWN_NAME.fullmatch(section.model) else onnx_files(section.model)
    weights = sum(file.stat().st_size for file in files if file.is_file())
    return Plan(
        stage="embed",
        tasks=math.ceil(number / part),
        bytes_read=number * chunk,
        bytes_written=result,
        bytes_stored=result,
        bytes_per_task=TASK_BYTES,
        result_bytes=result + number * 16 * WORD,
        instances=instances,
        shared_bytes=(
            MODEL_BYTES
            + COPIES_OF_WEIGHTS * weights
            + 2 * crops.batch_size * chunk
            + COPIES_OF_BATCH * section.batch_size * used * window * 4
            + 2 * part * WIDTH * 4
        ),
    )
