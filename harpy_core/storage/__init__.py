"""How anything of ours gets to disk, and stays whole."""
