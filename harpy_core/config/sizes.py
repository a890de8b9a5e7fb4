"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from harpy_core.errors import InputError

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?i?)B")
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_FACTORS = {"ki": 2**10, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "i": 1}


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as ``48GB`` (1e9) or ``512MiB`` (2**20).

    Raises
    ------
    InputError
        The text is not a positive size.
    """
    match = _BYTES.fullmatch(text.strip())
    size = 0
    if match is not None:
        size = int(float(match[1]) * {**_FACTORS, **_BINARY_FACTORS}[match[2]])
    if size < 1:
        raise InputError(f"{text!r}: a size is a number and a unit, such as 48GB or 512MiB")
    return size


def amount(size: int) -> str:
    """Write bytes as people read them, in powers of 1,000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"
