"""Results to look at: an index of them all, a page of linked views, napari, and Vitessce."""
