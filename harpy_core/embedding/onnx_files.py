"""Files of an ONNX model: its own, and those beside it that hold weights.

It is imported while the workflow is parsed: nothing heavy is imported here.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

# ONNX keeps where a tensor's values are as a pair of texts, `location` and a path: in Protocol
# Buffers two fields, each its number and kind, the length and the text.
_LOCATION = b"\x0a\x08location\x12"


def onnx_files(path: str | Path) -> list[Path]:
    """Return the file of a model, and those beside it that hold weights, which may be missing.

    PyTorch writes the weights of a model to a file of their own by default.
    """
    model = Path(path)
    if not model.is_file() or model.stat().st_size == 0:
        return [model]
    found = set()
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(_LOCATION)
        while place >= 0:
            first, length = _number(content, place + len(_LOCATION))
            found.add(model.parent / os.fsdecode(content[first : first + length]))
            place = content.find(_LOCATION, first)
    return [model, *sorted(found)]


def _number(content: mmap.mmap, place: int) -> tuple[int, int]:
    """Index after a number of Protocol Buffers, seven bits a byte, and the number."""
    found, shift = 0, 0
    while place < len(content):
        byte = content[place]
        place += 1
        found |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 28:
            break
    return place, found
