"""A user's own functions of whole instances, and where the code of one named in a config is.

It is imported while the workflow is parsed: nothing heavy is imported here, nor is the module that
a config names before a stage runs.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harpy_core.errors import InputError
from harpy_core.statistics.declared import Statistic
from harpy_core.statistics.joint import Joint

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.statistics.places import Placed
    from harpy_core.statistics.together import Together

Per = Literal["channel", "instance"]

OWN_PATTERN = r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"
"""Name of a function in a config: ``module:name``."""

OWN_NAME = re.compile(OWN_PATTERN)


class Carried:
    """A function as it goes to workers: unpickled where it is called, so that its failing is told.

    Parameters
    ----------
    function
        Function; None on the way.
    pickled
        The function, pickled.
    """

    def __init__(self, function: Callable[..., Any] | None, pickled: bytes = b"") -> None:
        self._function, self._pickled = function, pickled

    def __call__(self, *arguments: np.ndarray) -> Any:
        """Call the function."""
        if self._function is None:
            from distributed.protocol import pickle

            # From the process that gave the tasks out, by the channel that they come by.
            self._function = pickle.loads(self._pickled)
        return self._function(*arguments)

    def __reduce__(self) -> tuple[type, tuple[None, bytes]]:
        if self._function is not None and not self._pickled:
            from distributed.protocol import pickle

            self._pickled = pickle.dumps(self._function)
        return Carried, (None, self._pickled)


@dataclass(frozen=True, slots=True)
class Measure:
    """Numbers that a function returns for each whole instance; see `measure`."""

    function: Callable[..., Any]
    outputs: tuple[str, ...]
    per: Per
    channels: tuple[str, ...] | None
    unit: str
    batched: bool

    def __call__(self, *arguments: np.ndarray) -> Any:
        """Call the function."""
        return self.function(*arguments)

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def declared(self) -> list[Statistic] | Joint:
        """Return the statistics of each channel, or the numbers of all channels together."""
        function = Carried(self.function)
        told = (self.function.__doc__ or f"numbers of {self.name}").strip().splitlines()[0]
        if self.per == "instance":
            finish = partial(_of_instances, function, self.name, len(self.outputs), self.batched)
            outputs = self.outputs or (self.name,)
            return Joint(self.name, told, outputs, self.channels, finish, self.unit)
        names = [f"{self.name}-{output}" for output in self.outputs] or [self.name]
        return [
            Statistic(
                name,
                told,
                ("placed",),
                partial(_of_channel, function, self.name, len(names), number, self.batched),
                self.unit,
            )
            for number, name in enumerate(names)
        ]


def _of_channel(
    function: Callable[..., Any],
    name: str,
    outputs: int,
    number: int,
    batched: bool,
    pixels: Placed,
) -> np.ndarray:
    return pixels.each(function, name, outputs, batched)[:, number : number + 1]


def _of_instances(
    function: Callable[..., Any], name: str, outputs: int, batched: bool, pixels: Together
) -> np.ndarray:
    return pixels.each(function, name, max(outputs, 1), batched)


def measure(
    function: Callable[..., Any] | None = None,
    *,
    outputs: Sequence[str] = (),
    per: Per = "channel",
    channels: Sequence[str] | None = None,
    unit: str = "",
    batched: bool = False,
) -> Any:
    """Declare a function of whole instances as a statistic; also as a decorator.

    The function is called in the workers with the pixels of one instance, (c, n) in the image's
    type, and their coordinates, (3, n) int64 as z, y and x in the image, both in the image's order;
    it returns one number for each of `outputs`. Its module must be one that the workers can import,
    or a script or notebook. What it returns must follow from its arguments alone. A process
    calls it from one thread at a time, for not every library bears two: workers, not threads, make
    it faster.

    Parameters
    ----------
    function
        Function; its name is that of the statistic.
    outputs
        Name of each number that it returns; empty: it returns one.
    per
        ``channel``: it is called for each channel alone, with c = 1; each output is a layer,
        ``name-output``, or ``name`` if it has one. ``instance``: it is called once with all of
        `channels`; its outputs are the columns of ``obsm[name]``.
    channels
        Names of the channels that it is called with, in this order; None: all. Only for
        ``instance``.
    unit
        Unit of its numbers.
    batched
        Call it with many instances at a time, which is faster where a call does little: their
        pixels side by side, their coordinates, and the index of each instance's first pixel and the
        end, (instances + 1,) int64; it returns (instances, outputs) numbers. Which instances are in
        one call is not defined: the numbers of each must follow from its own pixels.

    Returns
    -------
    Measure
        What `harpy_core.aggregate_stats` takes in `stats`; without a function, a decorator.

    Raises
    ------
    InputError
        There is no such `per`, or the names cannot be used.
    """
    if function is None:
        return partial(
            measure, outputs=outputs, per=per, channels=channels, unit=unit, batched=batched
        )
    if per not in ("channel", "instance"):
        raise InputError(f"per = {per!r}: choose channel or instance")
    if channels is not None and per == "channel":
        raise InputError("channels: for per='instance' alone; leave them out, or choose it")
    made = Measure(
        function, tuple(outputs), per, None if channels is None else tuple(channels), unit, batched
    )
    for name in (made.name, *made.outputs):
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"stats: {name!r} cannot be a name: use letters, digits, _, - and .")
    if len(set(made.outputs)) < len(made.outputs):
        raise InputError(f"stats: {made.name}: outputs = {list(outputs)}: give each name once")
    return made


def load(named: str) -> Any:
    """Import what a config calls ``module:name``, from the working directory or installed.

    Raises
    ------
    InputError
        There is no such thing, or its module cannot be imported.
    """
    file = locate(named)
    module, _, name = named.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # Workers are started with this path, or in this directory.
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
        imported = Path(found.__file__ or "")
        if imported.resolve() != file.resolve():
            raise ImportError(f"Python has another module {module}, {imported}: rename {file}")
        return getattr(found, name)
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"stats: {named!r} cannot be imported: {type(error).__name__}: {told}"
        ) from error


def locate(named: str) -> Path:
    """Find the file of ``module:name`` without importing it.

    Raises
    ------
    InputError
        There is no such module, or nothing of that name in it.
    """
    module, _, name = named.partition(":")
    file = _file_of(module)
    if file is None:
        raise InputError(
            f"stats: {named!r}: there is no module {module} in the working directory, nor one "
            "installed; correct its name, or put its file there"
        )
    if name not in set(_names_in(file)):
        raise InputError(f"stats: {named!r}: {file} defines no {name}; correct the name")
    return file


def code_digest(named: str) -> str:
    """SHA-256 of the file of ``module:name`` and of those that it imports from beside it."""
    total = hashlib.sha256()
    module = named.partition(":")[0]
    first = locate(named)
    root = first.parents[module.count(".") + (first.name == "__init__.py")]
    waiting, seen = [first, *_beside(root, module)], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _modules_in(file, file.relative_to(root).parts[:-1]):
            waiting += _beside(root, name)
    for file in sorted(seen):
        total.update(f"{file.relative_to(root.parent)}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()


def _file_of(module: str) -> Path | None:
    """File of a module, found without importing its packages."""
    path = [str(Path.cwd()), *sys.path]
    parts = module.split(".")
    for number, part in enumerate(parts):
        # The name of a package's module is looked for under the last part of it.
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            return None
        if number < len(parts) - 1:
            path = list(spec.submodule_search_locations or [])
    found = spec.origin if spec else None
    return Path(found) if found and found.endswith(".py") else None


def _names_in(file: Path) -> Iterator[str]:
    """Yield the names that a file defines or imports at its top level."""
    for node in _parsed(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _modules_in(file: Path, package: Sequence[str]) -> Iterator[str]:
    """Yield the names in a file's imports, wherever they are, that may be modules.

    Parameters
    ----------
    package
        Names of the packages that it is in, which relative imports begin at.
    """
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            parent = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*parent, alias.name]) for alias in node.names)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"stats: {file} is no Python that can be read: {error}") from error


def _beside(root: Path, module: str) -> list[Path]:
    """Files of a module and its packages in the folder of a user's own.

    There are none of what is installed: it has versions.
    """
    if root.name == "site-packages":
        return []
    names = module.split(".")
    inside = [root.joinpath(*names[:number]) for number in range(1, len(names) + 1)]
    files = [file for at in inside for file in (at.with_suffix(".py"), at / "__init__.py")]
    return [file for file in files if file.is_file()]
