"""The one error a user is meant to read."""

from __future__ import annotations

import lzma
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

_USER = re.compile(r"(://)[^/\s'\"]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]*[^\s'\".,:;)]")


DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,  # of XML too
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that libraries raise for files that are damaged, or made to harm."""


class InputError(ValueError):
    """Bad input, in a line for each mistake: the thing, its value and the remedy.

    Parameters
    ----------
    message
        The line or lines. Addresses in it show neither user nor query: both may be credentials.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class TransientError(InputError):
    """What was lacking may be there in another try: memory, workers, a server that answers."""


def redacted(text: str) -> str:
    """Return a text whose addresses show neither user nor query."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))


@contextmanager
def ending_in_its_lines() -> Iterator[None]:
    """End the process with the lines of bad input on stderr, without a traceback."""
    try:
        yield
    except InputError as error:
        sys.exit(str(error))


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Report in one line that a source cannot be understood, whatever its library raises.

    Parameters
    ----------
    what
        Path or address of the source; empty if the caller names it.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        of = f"{what}: " if what else ""
        raise InputError(
            f"{of}cannot be understood ({said}): it is damaged, or not what its name says; copy or "
            "write it again"
        ) from error
