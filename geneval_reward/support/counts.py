"""`counted`: numbers with their nouns in messages. It imports nothing, since commands need it before they start."""

from __future__ import annotations


def counted(number: int, noun: str, verb: str = "") -> str:
    """Write a number with its noun and, if one is given in the plural, its verb.

    Examples:
        >>> counted(1, "image"), counted(4, "image")
        ('1 image', '4 images')
        >>> counted(1, "image", "are"), counted(1, "image", "occur"), counted(4, "image", "were")
        ('1 image is', '1 image occurs', '4 images were')
    """
    one = {"are": "is", "were": "was", "have": "has", "": ""}.get(verb, f"{verb}s")
    return f"{number:,} {noun} {one}".rstrip() if number == 1 else f"{number:,} {noun}s {verb}".rstrip()
