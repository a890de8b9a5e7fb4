"""Inside extraction: where windows lie, how they are cut, and how their batches are kept."""
