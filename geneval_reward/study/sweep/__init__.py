"""Sweeps: generate and score over grids of generator arguments, to find which settings are worth their time."""
