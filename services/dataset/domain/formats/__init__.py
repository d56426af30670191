"""The formats in which rows hold examples: one file each, found by name in `catalogue`."""
