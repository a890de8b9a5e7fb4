"""Models of crops: ONNX files, PyTorch modules and functions, as one kind of function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.embedding.onnx_files import onnx_files
from harpy_core.errors import InputError
from harpy_core.statistics.own import OWN_NAME, code_digest, load


@dataclass(frozen=True, slots=True)
class Model:
    """A function of crops.

    Attributes
    ----------
    name
        Name for errors and provenance.
    digest
        Digest of its weights or code; None where nothing tells what it computes.
    run
        Function of (n, c, …) float32 that returns (n, k) float32.
    batch
        Number of crops that it takes at a time, if it takes no other.
    """

    name: str
    digest: str | None
    run: Callable[[np.ndarray], np.ndarray]
    batch: int | None = None

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Run the model; a batch that it takes no other size of is filled up with zeros.

        Raises
        ------
        InputError
            The model fails, or does not return a row for each crop.
        """
        number = len(crops)
        if self.batch is not None and number < self.batch:
            more = np.zeros((self.batch - number, *crops.shape[1:]), crops.dtype)
            crops = np.concatenate([crops, more])
        try:
            found = _as_float32(np.asarray(self.run(crops)))
        except Exception as error:
            told = " ".join(str(error).split())
            raise InputError(
                f"model {self.name} failed on crops of {crops.shape}, float32: "
                f"{type(error).__name__}: {told}"
            ) from error
        if found.ndim < 2 or len(found) != len(crops) or found[0].size == 0:
            raise InputError(
                f"model {self.name} returned {found.shape} for {len(crops)} crops: it must return "
                "a row of numbers for each"
            )
        return np.ascontiguousarray(found[:number].reshape(number, -1))


def _as_float32(found: np.ndarray) -> np.ndarray:
    """Numbers as float32; those that it cannot hold are an error."""
    if found.dtype.kind not in "biuf":
        raise TypeError(f"returned {found.dtype}, not real numbers")
    with np.errstate(over="raise"):
        return found.astype(np.float32)


LARGEST_SENT = 16 * 2**20
"""Bytes of a model that is sent to workers with every task, at most."""


@dataclass(frozen=True, slots=True)
class Named:
    """A model as other processes open it.

    Attributes
    ----------
    model
        Path of an ONNX file, absolute, or ``module:name``; or a pickled object.
    digest
        Digest that it must have there; None where there is none.
    device, threads
        As in `open_model`; no threads: all of a worker's.
    """

    model: str | bytes
    digest: str | None
    device: str
    threads: int | None

    @classmethod
    def of(cls, model: Any, opened: Model, device: str, threads: int | None) -> Named:
        """Name a model.

        Raises
        ------
        InputError
            It is an object that cannot be sent.
        """
        if isinstance(model, str | os.PathLike):
            text = os.fspath(model)
            named = text if OWN_NAME.fullmatch(text) else str(Path(text).absolute())
            return cls(named, opened.digest, device, threads)
        from distributed.protocol import pickle

        remedy = "give module:name, or export it as an ONNX file"
        try:
            found: bytes = pickle.dumps(model)
        except Exception as error:
            raise InputError(
                f"model {opened.name}: it cannot be sent to workers ({error}): {remedy}"
            ) from error
        if len(found) > LARGEST_SENT:
            raise InputError(
                f"model {opened.name}: {len(found):,} bytes are too many to send to workers with "
                f"each task: {remedy}"
            )
        return cls(found, opened.digest, device, threads)

    def opened(self) -> Model:
        """Open it in this process.

        Raises
        ------
        InputError
            It is not what it was where it was named.
        """
        from distributed.protocol import pickle

        # From the process that gave the tasks out, by the channel that they come by.
        model = pickle.loads(self.model) if isinstance(self.model, bytes) else self.model
        found = open_model(model, self.device, self.threads or _threads_of_worker())
        if self.digest is not None and found.digest != self.digest:
            raise InputError(
                f"model {found.name}: a worker has another one of that name; give all the same"
            )
        return found


def _threads_of_worker() -> int:
    """Number of threads of the Dask worker that this runs on."""
    from distributed import get_worker

    threads: int = get_worker().state.nthreads
    return threads


def open_model(model: Any, device: str = "auto", threads: int | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    model
        Path of an ONNX file; ``module:name`` of a PyTorch module or function of the user's; or one
        of these themselves.
    device
        ``cpu``, ``cuda`` or ``auto``: a GPU where there is one.
    threads
        Threads of one call; None leaves them to the library.

    Raises
    ------
    InputError
        There is no such model, or its library is not installed.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device = {device!r}: choose auto, cpu or cuda")
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}: give at least 1, or None")
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if OWN_NAME.fullmatch(text):
            return _of_object(load(text), text, code_digest(text), device, threads)
        return _of_onnx(Path(text), device, threads)
    name = str(getattr(model, "__name__", type(model).__name__))
    return _of_object(model, name, None, device, threads)


def _of_object(
    model: Any, name: str, digest: str | None, device: str, threads: int | None
) -> Model:
    if not hasattr(model, "state_dict"):
        if not callable(model):
            raise InputError(f"model {name}: neither an ONNX file, a PyTorch module nor a function")
        return Model(name, digest, model)
    import torch

    from harpy_core.embedding.torch_modules import module_digest

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise InputError("device = 'cuda': PyTorch finds no GPU; choose auto or cpu")
    place = torch.device("cuda" if there and device != "cpu" else "cpu")
    module = model.to(place).eval()
    if threads is not None:
        torch.set_num_threads(threads)

    def run(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            numbers = module(torch.from_numpy(crops).to(place)).cpu()
        # NumPy has no bfloat16.
        found: np.ndarray = (numbers.float() if numbers.dtype.itemsize < 4 else numbers).numpy()
        return found

    return Model(name, module_digest(model, digest), run)


def _of_onnx(path: Path, device: str, threads: int | None) -> Model:
    if not path.is_file():
        raise InputError(
            f"model = {str(path)!r}: no such file; give the path of an ONNX file, or module:name"
        )
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError(
            f"model = {str(path)!r}: an ONNX file needs onnxruntime: pip install onnxruntime (or "
            "onnxruntime-gpu)"
        ) from None
    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not there:
        raise InputError("device = 'cuda': onnxruntime finds no GPU; install onnxruntime-gpu")
    providers = ["CUDAExecutionProvider"] if there and device != "cpu" else []
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputError(f"model = {str(path)!r}: cannot be opened: {told}") from error
    given, *others = session.get_inputs()
    if others or given.type not in ("tensor(float)", "tensor(float16)"):
        raise InputError(
            f"model = {str(path)!r}: it takes {len(others) + 1} inputs, the first {given.type}; "
            "crops are one input of float"
        )
    half = given.type == "tensor(float16)"
    first = given.shape[0] if given.shape else None

    def run(crops: np.ndarray) -> np.ndarray:
        pixels = crops.astype(np.float16) if half else crops
        found: np.ndarray = session.run(None, {given.name: pixels})[0]
        return found

    content = hashlib.sha256()
    for file in onnx_files(path):
        with open(file, "rb") as opened:
            hashlib.file_digest(opened, lambda: content)
    return Model(str(path), content.hexdigest(), run, first if isinstance(first, int) else None)
