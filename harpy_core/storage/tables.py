"""Parts of a table on disk that are read without anndata, whose import takes longer."""

from __future__ import annotations

from typing import Any

import numpy as np


def channel_names(group: Any) -> list[str]:
    """Return the names of a table's channels, in its order.

    Parameters
    ----------
    group
        Root group of an AnnData store; of the index of ``var`` both encodings are known, an array
        of strings, and one with a mask of those that are missing.
    """
    index = group["var"][group["var"].attrs["_index"]]
    values = index["values"] if "values" in getattr(index, "array_keys", list)() else index
    return [str(name) for name in np.asarray(values[...]).tolist()]
