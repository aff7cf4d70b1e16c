"""Grids of generator arguments, scored: which settings are worth their seconds."""
