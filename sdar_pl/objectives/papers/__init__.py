"""One published method a file. ``sdar_pl.objectives`` exports all of them."""
