"""Credentials by which only the processes of one cluster can talk to each other."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from distributed.security import Security

from harpy_core.errors import InputError

_ROLES = ("client", "scheduler", "worker")


@contextmanager
def temporary(folder: str | os.PathLike[str]) -> Iterator[Security]:
    """Make a key and certificate, in files that only this user can read, removed at the end.

    Parameters
    ----------
    folder
        Folder in which all processes of the cluster see the files.

    Raises
    ------
    InputError
        Its path does not fit a job's command, or nothing can be written there.
    """
    place = os.path.abspath(folder)
    remedy = "set shared-temp-directory of dask-jobqueue to another folder that all nodes see"
    if shlex.quote(place) != place:
        raise InputError(f"{place}: a job's command cannot hold this path; {remedy}")
    try:
        private = tempfile.mkdtemp(prefix=".harpy-core-tls-", dir=place)
    except OSError as error:
        raise InputError(
            f"{place}: credentials of the workers cannot be kept there ({error.strerror}); {remedy}"
        ) from error
    try:
        made = Security.temporary()
        key = _written(private, "key.pem", made.tls_worker_key)
        certificate = _written(private, "certificate.pem", made.tls_worker_cert)
        files = {f"tls_{role}_key": key for role in _ROLES}
        files |= {f"tls_{role}_cert": certificate for role in _ROLES}
        yield Security(require_encryption=True, tls_ca_file=certificate, **files)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _written(folder: str, name: str, content: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "x", encoding="ascii", opener=_for_one_user) as file:
        file.write(content)
    return path


def _for_one_user(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
