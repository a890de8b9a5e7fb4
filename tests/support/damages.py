"""Ways in which a file is damaged on a disk or on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def emptied(content: bytes) -> bytes:
    return b""


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_byte_short(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


def appended(content: bytes) -> bytes:
    return content + b"\0more"


def deleted(content: bytes) -> None:
    return None


DAMAGES: tuple[Callable[[bytes], bytes | None], ...] = (
    *(emptied, truncated, one_byte_short, flipped, appended, deleted),
)


def damage(file: Path, how: Callable[[bytes], bytes | None]) -> None:
    changed = how(file.read_bytes())
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
