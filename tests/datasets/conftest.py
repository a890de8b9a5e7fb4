"""A server of one file, which makes the faults that a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_servers import SIZE, Quiet, Server, handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    state = Server(np.random.default_rng(0).bytes(SIZE), final=tmp_path / "store.zip")
    with Quiet(("127.0.0.1", 0), handler(state)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/store.zip"
        yield state
        state.released.set()
        running.shutdown()
        thread.join()
