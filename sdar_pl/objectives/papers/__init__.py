"""Parts of published methods, one paper a file. ``sdar_pl.objectives`` exports all of them."""
