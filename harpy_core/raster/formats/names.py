"""Names by which sources are recognised before they are opened."""

from __future__ import annotations

PROTOCOLS = ("s3", "gs", "gcs", "https", "http", "abfs", "az", "s3a")
"""Protocols with which an address may begin."""

METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Names of the files of a Zarr store that hold no pixels."""
