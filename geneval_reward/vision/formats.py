"""The image formats that are read, in one place; opening a file without starting anything else.

Pillow chooses a decoder by a file's content, not by its name, and some of its decoders start other programs (Ghostscript for
PostScript) or read formats that no generator writes. Only the formats below are ever tried.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from geneval_reward.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the file names that count as images, in lower case."""

FORMATS: Final = ("PNG", "JPEG", "WEBP")
"""Pillow's names of the formats. Its JPEG reader also opens MPO, which some phones write under the ending `.jpg`."""

MAX_PIXELS: Final = 100_000_000
"""Images with more pixels are refused: a detector sees at most about a million, and one such image fills the memory."""

MAX_SCANS: Final = 100
"""JPEG files with more scans are refused. Progressive files have about ten; each scan is a pass over the whole image, so a
file of 64 MB can keep a CPU busy for an hour."""


def is_image_name(name: str) -> bool:
    """Tell whether a file's name is that of an image: the ending is one of `SUFFIXES`, and it is not a hidden file."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not os.path.basename(name).startswith(".")


def open_image(file: str | Path | BinaryIO, where: str | None = None) -> Image.Image:
    """Open an image file without decoding it.

    Args:
        file: A path or an open binary file.
        where: What error messages call it; the path if None.

    Returns:
        A Pillow image of one of `FORMATS` with at most `MAX_PIXELS` pixels. Close it, or use it in a `with` statement.

    Raises:
        ImageError: If the file is missing, not a regular file (a pipe would be waited for without end), of another format, too
            large, or damaged, whatever its decoder raises.
    """
    from PIL import Image, UnidentifiedImageError

    where = str(file) if where is None else where
    try:
        mode = os.stat(file).st_mode if isinstance(file, str | Path) else stat.S_IFREG
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ImageError(f"{where}: expected an image file, got something that is no regular file; check the path")
        with warnings.catch_warnings():
            # The size is checked below, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
        try:
            _check_size(image, where)
        except BaseException:
            image.close()
            raise
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{where}: expected at most {MAX_PIXELS:,} pixels, got far more ({error}); scale it down"
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{where}: expected an image file, got nothing; check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{where}: expected an image (PNG, JPEG or WebP), got something else") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{where}: expected a file that can be read, got {error.strerror}; check the path") from error
    except Exception as error:
        raise ImageError(damaged(where, error)) from error
    return image


def damaged(where: str, error: Exception) -> str:
    """The message for an image that cannot be decoded."""
    return (
        f"{where}: expected a whole image, got a damaged one ({str(error) or type(error).__name__}); generate it again"
    )


def _check_size(image: Image.Image, where: str) -> None:
    """Refuse an image that would cost far too much to decode."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got {width} x {height}; scale it down")
    file: Any = image.fp  # type: ignore[attr-defined]
    if image.format in ("JPEG", "MPO"):
        position = file.tell()
        file.seek(0)
        # Inside the data of a scan the byte FF is followed by 00, so this is a start-of-scan marker wherever it stands.
        scans = file.read().count(b"\xff\xda")
        file.seek(position)
        if scans > MAX_SCANS:
            raise ImageError(
                f"{where}: expected a JPEG file with at most {MAX_SCANS} scans, got {scans:,}; save it again"
            )
