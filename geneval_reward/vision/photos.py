"""The packaged photographs, with what is on them and where they come from.

Four freely licensed photographs, for the demonstration, the self-tests and the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from PIL import Image


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph: what is true of it, and its provenance.

    Attributes:
        file: Its name in `geneval_reward/data/photos`.
        record: A GenEval record that is true of it.
        false_record: A GenEval record that is false of it.
        source: Package, version and file that it was taken from.
        changes: What was done to that file.
        author: Who made the photograph.
        licence: Why it is free, as the source package or the file itself says.
        sha256: Of the packaged file.
    """

    file: str
    record: Mapping[str, Any]
    false_record: Mapping[str, Any]
    source: str
    changes: str
    author: str
    licence: str
    sha256: str


def photo(name: str) -> Image.Image:
    """A packaged photograph in RGB.

    Args:
        name: A key of `PHOTOS`.

    Raises:
        KeyError: There is no such photograph.

    Examples:
        >>> photo("coffee").size
        (600, 400)
    """
    if name not in PHOTOS:
        raise KeyError(f"name: expected one of {sorted(PHOTOS)}, got {name!r}")
    with (files("geneval_reward") / "data" / "photos" / PHOTOS[name].file).open("rb") as file:
        return Image.open(file).convert("RGB")


def _one(name: str) -> dict[str, Any]:
    return {"tag": "single_object", "include": [{"class": name, "count": 1}], "prompt": f"a photo of a {name}"}


_CC0 = "CC0; scikit-image's docstring of the image: 'No copyright restrictions. CC0 by the photographer'"
_JPEG = "re-encoded as JPEG of quality 90 without chroma subsampling"

PHOTOS: Mapping[str, Photo] = MappingProxyType(
    {
        "chelsea": Photo(
            file="chelsea.png",
            record=_one("cat"),
            false_record=_one("dog"),
            source="scikit-image 0.24.0, skimage/data/chelsea.png",
            changes="none",
            author="Stefan van der Walt",
            licence=_CC0,
            sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        ),
        "coffee": Photo(
            file="coffee.jpg",
            record=_one("cup"),
            false_record={
                "tag": "counting",
                "include": [{"class": "cup", "count": 2}],
                "exclude": [{"class": "cup", "count": 3}],
                "prompt": "a photo of two cups",
            },
            source="scikit-image 0.24.0, skimage/data/coffee.png",
            changes=_JPEG,
            author="Rachel Michetti, courtesy of Pikolo Espresso Bar",
            licence=_CC0,
            sha256="930c7c25faf059fb5b310aa66329ae752d997b1e8bea17df3cea0428b9b6173d",
        ),
        "astronaut": Photo(
            file="astronaut.jpg",
            record=_one("person"),
            false_record=_one("teddy bear"),
            source="scikit-image 0.24.0, skimage/data/astronaut.png",
            changes=_JPEG,
            author="NASA (portrait of Eileen Collins)",
            licence="public domain; scikit-image's docstring: 'No known copyright restrictions, released into the "
            "public domain'",
            sha256="de1f4485ae91fa26642aeda9b6ae195f8cd0f28168b96b2a0c40aa1e225afa32",
        ),
        "grace_hopper": Photo(
            file="grace_hopper.jpg",
            record={
                "tag": "two_object",
                "include": [{"class": "person", "count": 1}, {"class": "tie", "count": 1}],
                "prompt": "a photo of a person and a tie",
            },
            false_record={
                "tag": "two_object",
                "include": [{"class": "person", "count": 1}, {"class": "umbrella", "count": 1}],
                "prompt": "a photo of a person and an umbrella",
            },
            source="matplotlib 3.9.2, mpl-data/sample_data/grace_hopper.jpg",
            changes="none",
            author="James S. Davis, United States Navy (official portrait of Grace Hopper, 1984)",
            licence="public domain as a work of the US Navy; the JPEG's comment names its source, "
            "File:Grace_Hopper.jpg of Wikimedia Commons",
            sha256="a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        ),
    }
)
"""The photographs by name."""
