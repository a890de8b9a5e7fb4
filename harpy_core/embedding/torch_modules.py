"""Identity of a PyTorch module: its weights, and the code and settings that use them."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.statistics.own import OWN_NAME, code_digest


class _UnknownError(Exception):
    """Nothing tells what a part of a module computes."""


def module_digest(module: Any, code: str | None) -> str | None:
    """Digest of a module; None where nothing tells what it computes.

    Parameters
    ----------
    module
        A ``torch.nn.Module``.
    code
        Digest of the code that makes it, if it is known; else that of its parts is found.
    """
    total = hashlib.sha256()
    weights = chain(module.named_parameters(), module.named_buffers())
    for name, tensor in sorted(weights, key=lambda one: one[0]):
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        total.update(_bytes_of(tensor).data)
    try:
        facts = [code] if code else [_facts(name, part) for name, part in module.named_modules()]
    except _UnknownError:
        return None
    total.update(repr(facts).encode())
    return total.hexdigest()


def _bytes_of(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16: bytes have no type.
    import torch

    found: np.ndarray = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _facts(name: str, part: Any) -> list[Any]:
    """Class of a part of a module, the code of it, and its settings."""
    kept = ("_parameters", "_buffers", "_modules", "training")
    settings = {key: value for key, value in vars(part).items() if key not in kept}
    return [name, [_code_of(each) for each in type(part).__mro__], _plain(settings)]


def _code_of(kind: type) -> list[str]:
    import torch

    named = f"{kind.__module__}:{kind.__qualname__}"
    if issubclass(kind, torch.jit.ScriptModule):
        raise _UnknownError
    if kind.__module__.split(".")[0] in ("torch", "builtins", "typing"):
        if "<" in named:
            # A class that was made for one module, as torch.fx does.
            raise _UnknownError
        return [named, torch.__version__]
    if kind.__module__ == "__main__" or not OWN_NAME.fullmatch(named):
        raise _UnknownError
    try:
        return [named, code_digest(named)]
    except InputError:
        raise _UnknownError from None


def _plain(value: Any) -> Any:
    """Settings as builtins, in a fixed order."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, set):
        return sorted(repr(_plain(one)) for one in value)
    if isinstance(value, dict):
        return [[_plain(key), _plain(one)] for key, one in value.items()]
    raise _UnknownError
