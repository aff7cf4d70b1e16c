"""Colour verifiers, a file each."""
