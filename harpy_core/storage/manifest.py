"""Digests of content, and the manifest that declares a result whole, written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from harpy_core.errors import InputError
from harpy_core.storage.folders import room_for, sync_folder


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value made of builtins."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def tree_digest(path: str | os.PathLike[str], left_out: Collection[str] = ()) -> str:
    """SHA-256 over the sorted relative paths and contents of the files below a folder.

    Parameters
    ----------
    path
        The folder.
    left_out
        Relative paths of files that do not count.
    """
    root = Path(path)
    total = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix()
        if name == ".snakemake_timestamp" or name in left_out:
            continue
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON so that the path holds either the old text or the whole new one.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written to.
    """
    with room_for(Path(path), "what was there stays"):
        replace_json(Path(path), value)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text so that the path holds either the old one or the whole new one.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written to.
    """
    with room_for(Path(path), "what was there stays"):
        _replace(Path(path), text)


def replace_json(path: Path, value: Any) -> None:
    """Write JSON as `write_json` does, and leave errors as they are."""
    _replace(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def refuse_changed(path: str | os.PathLike[str], manifest: str | os.PathLike[str]) -> None:
    """Refuse a store that is not what its manifest declares.

    Raises
    ------
    InputError
        A file of it is missing, damaged, changed or new.
    """
    if tree_digest(path) != read_manifest(manifest)["digest"]:
        raise InputError(
            f"{path}: its files are not those that {manifest} declares: they were damaged or "
            "changed; remove both and run again"
        )


def write_manifest(path: str | os.PathLike[str], *, kind: str, digest: str, **facts: Any) -> None:
    """Declare a store whole: what it is, the digest of its content, and what is known of it.

    The text holds no time and no machine, so equal results have equal manifests.
    """
    write_json(path, {"kind": kind, "digest": digest, **facts})


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_manifest` wrote."""
    with open(path, encoding="utf-8") as handle:
        manifest: dict[str, Any] = json.load(handle)
    return manifest
