"""The one error a user is meant to read."""

from __future__ import annotations

import re

_USER = re.compile(r"(://)[^/\s'\"]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]*[^\s'\".,:;)]")


class InputError(ValueError):
    """Bad input, in one line: the thing, its value and the remedy.

    Parameters
    ----------
    message
        The line. Addresses in it show neither user nor query: both may be credentials.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


def redacted(text: str) -> str:
    """Return a text whose addresses show neither user nor query."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
