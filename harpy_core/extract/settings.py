"""What crops are asked to be: light enough for a plan, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from harpy_core.config.models import Codec
from harpy_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are cut and kept; each field is an argument of `harpy_core.extract_instances`."""

    diameter: int = 50
    batch_size: int = 500
    remove_background: bool = True
    extract_mask: bool = False
    dtype: str | None = None
    scale: float | None = None
    codec: Codec = "lz4"
    shard_size: int | None = None
    shuffle: int | None = None

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> CropSettings:
        """The settings in a config's section extract, which also says what is cropped."""
        return cls(**{field.name: section[field.name] for field in fields(cls)})

    @property
    def batch(self) -> int:
        """Crops of one file."""
        return self.batch_size if self.shard_size is None else self.shard_size

    def check(self, pixels: np.dtype) -> None:
        """Refuse what cannot be done with pixels of a type.

        Raises
        ------
        InputError
            The first setting that makes no sense, with the remedy.
        """
        if self.diameter < 1:
            raise InputError(f"diameter = {self.diameter}: a window must be at least 1 pixel")
        if self.batch_size < 1:
            raise InputError(f"batch_size = {self.batch_size}: a batch must hold at least 1 crop")
        if self.batch < 1 or self.batch % self.batch_size:
            raise InputError(
                f"shard_size = {self.shard_size}: give a multiple of batch_size, {self.batch_size}"
            )
        if self.codec not in get_args(Codec):
            raise InputError(f"codec = {self.codec!r}: choose from {', '.join(get_args(Codec))}")
        if self.shuffle is not None and self.shuffle < 0:
            raise InputError(f"shuffle = {self.shuffle}: a seed is a whole number of at least 0")
        self._check_type(pixels)

    def _check_type(self, pixels: np.dtype) -> None:
        import numpy as np

        if self.dtype not in (None, "float16", "float32"):
            raise InputError(f"dtype = {self.dtype!r}: choose float16, float32, or None")
        if (self.dtype is None) != (self.scale is None):
            raise InputError(
                f"dtype = {self.dtype!r}, scale = {self.scale}: give both, such as "
                "dtype='float16', scale=1/65535, or neither"
            )
        if self.dtype is None or self.scale is None:
            return
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise InputError(f"scale = {self.scale}: give a number above 0")
        largest = float(np.finfo(self.dtype).max)
        if pixels.kind in "iu" and np.iinfo(pixels).max * self.scale > largest:
            raise InputError(
                f"scale = {self.scale}: {pixels} pixels times that may be too large for "
                f"{self.dtype}, whose largest is {largest:g}; give at most "
                f"{largest / np.iinfo(pixels).max:g}"
            )
