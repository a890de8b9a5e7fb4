"""Names by which sources are recognised before they are opened."""

from __future__ import annotations

from harpy_core.errors import InputError

PROTOCOLS = ("s3", "gs", "gcs", "https", "http", "abfs", "az", "s3a")
"""Protocols with which an address may begin."""

METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Names of the files of a Zarr store that hold no pixels."""

LONGEST_METADATA = 2**25
"""Bytes of a file of metadata, at most; those of large stores have some hundred thousand."""


def refuse_long(name: str, size: int) -> None:
    """Refuse a file of metadata that takes longer to read than an image."""
    if size > LONGEST_METADATA:
        raise InputError(
            f"{name}: {size:,} bytes of metadata; at most {LONGEST_METADATA:,} are read"
        )
