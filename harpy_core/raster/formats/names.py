"""Names that sources are known by before anything of them is opened."""

from __future__ import annotations

PROTOCOLS = ("s3", "gs", "gcs", "https", "http", "abfs", "az", "s3a")
"""What an address may begin with."""

METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Names of the files of a Zarr store that hold no pixels."""
