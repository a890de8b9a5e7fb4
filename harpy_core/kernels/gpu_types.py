"""Names of the kernels of `gpu.cu`, and of the C++ types that they are made for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harpy_core.kernels.layout import LOOPS, family_of

_C_TYPES = {
    "u1": "unsigned char",
    "i1": "signed char",
    "u2": "unsigned short",
    "i2": "short",
    "u4": "unsigned int",
    "i4": "int",
    "u8": "unsigned long long",
    "i8": "long long",
    "f4": "float",
    "f8": "double",
}


def sums_type(dtype: np.dtype, loop: str, ignore_nan: bool) -> str:
    """Name of the type in `gpu.cu` in which a loop over pixels of a NumPy type sums."""
    family = family_of(dtype)
    skip = f", {'true' if ignore_nan else 'false'}" if family == "real" else ""
    return f"{family.capitalize()}{loop.capitalize()}<{_C_TYPES[_code(dtype)]}{skip}>"


def powers_type(dtype: np.dtype, ignore_nan: bool) -> str:
    """Name of the type in `gpu.cu` that sums powers about a pivot."""
    return sums_type(dtype, "powers", ignore_nan)


def word_type(dtype: np.dtype) -> str:
    """Name of the type that copies items of as many bytes."""
    return _C_TYPES[f"u{dtype.itemsize}"]


label_type = word_type
"""Name of the type that reads labels: never negative, signed ones are read as unsigned."""


def _code(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def every_kernel() -> Iterator[str]:
    """Yield the C++ name of every kernel."""
    for size in (1, 2, 4, 8):
        word = word_type(np.dtype(f"u{size}"))
        yield from (f"{kernel}<{word}>" for kernel in ("gather", "count_runs", "find_runs"))
        yield from (f"restore_bits<{word}>", f"restore_bytes<{word}>")
    yield "unpack"
    for dtype in map(np.dtype, _C_TYPES):
        for ignore_nan in (False, True)[: 1 + (dtype.kind == "f")]:
            sums = [sums_type(dtype, loop, ignore_nan) for loop in LOOPS[family_of(dtype)]]
            if family_of(dtype) != "narrow":
                sums.append(powers_type(dtype, ignore_nan))
            for name in sums:
                yield from (f"reduce<{name}>", f"merge_parts<{name}>")
