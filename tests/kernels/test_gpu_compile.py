"""The kernels of the engine cupy compile for the cards there are; no GPU is needed for that."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from harpy_core.kernels import gpu, gpu_cards, gpu_types, layout


@cache
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's run-time compiler, from the wheel among the development packages."""
    if sys.platform != "linux":
        pytest.skip("nvidia-cuda-nvrtc is a development package on Linux alone")
    files = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    paths = [Path(str(f.locate())) for f in files if re.search(r"libnvrtc\.so\.\d+$", str(f))]
    return ctypes.CDLL(str(paths[0]))


class Program:
    """`gpu.cu` compiled with every kernel there is."""

    def __init__(self, architecture: str, *options: str) -> None:
        self._program = ctypes.c_void_p()
        source = gpu_cards.SOURCE.read_bytes()
        self._call("CreateProgram", source, b"gpu.cu", 0, None, None, create=True)
        for kernel in gpu_types.every_kernel():
            self._call("AddNameExpression", kernel.encode())
        flags = [*gpu_cards.OPTIONS, f"--gpu-architecture={architecture}", *options]
        given = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        failed = nvrtc().nvrtcCompileProgram(self._program, len(flags), given)
        self.log = self._text("ProgramLog")
        assert not failed, self.log

    def _call(self, name: str, *arguments: object, create: bool = False) -> None:
        first = ctypes.byref(self._program) if create else self._program
        assert getattr(nvrtc(), f"nvrtc{name}")(first, *arguments) == 0, name

    def _text(self, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", text)
        return text.value.decode()

    def name(self, kernel: str) -> str:
        """Name that the compiler gives a kernel."""
        name = ctypes.c_char_p()
        self._call("GetLoweredName", kernel.encode(), ctypes.byref(name))
        assert name.value is not None
        return name.value.decode()

    @property
    def ptx(self) -> str:
        """The assembly."""
        return self._text("PTX")


@cache
def program(*flags: str) -> Program:
    return Program(*flags)


@pytest.mark.parametrize("architecture", ["75", "80", "90"])
def test_every_kernel_of_every_pixel_type_compiles_to_ptx(architecture: str) -> None:
    compiled = program(f"compute_{architecture}")
    assert f".target sm_{architecture}" in compiled.ptx
    entries = set(re.findall(r"\.entry (\w+)\(", compiled.ptx))
    assert {compiled.name(kernel) for kernel in gpu_types.every_kernel()} == entries
    assert not compiled.log.strip("\0 \n"), compiled.log


def test_kernels_keep_everything_in_registers_and_load_16_bytes_at_a_time() -> None:
    log = program("sm_90", "--ptxas-options=-v").log
    reports = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", log)
    assert len(reports) >= len(list(gpu_types.every_kernel()))
    assert all(report == ("0", "0") for report in reports), log
    ptx = program("compute_90").ptx
    for body in re.findall(r"\.entry \w*reduce\w*\((.*?)\n}", ptx, re.DOTALL):
        assert re.search(r"ld\.global(\.nc)?\.v[24]\.", body)


def test_the_kernels_know_the_same_words_as_the_layout() -> None:
    source = gpu_cards.SOURCE.read_text(encoding="utf-8")
    for kind in ("u2", "u4", "f4"):
        family = layout.family_of(np.dtype(kind))
        for loop in layout.LOOPS[family]:
            name = gpu_types.sums_type(np.dtype(kind), loop, False).partition("<")[0]
            body = source[source.index(f"struct {name} ") :]
            found = {
                key: int(re.search(rf"int {key} = (\d+);", body)[1])
                for key in ("WORDS", "CHANNELS")
            }
            assert found == {
                "WORDS": layout.words_of(family, loop),
                "CHANNELS": gpu.CHANNELS[loop],
            }
    assert f"__launch_bounds__({gpu_cards.BLOCK})" in source
