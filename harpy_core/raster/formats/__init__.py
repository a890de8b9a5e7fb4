"""Where images and labels come from: a file for each kind of source."""
