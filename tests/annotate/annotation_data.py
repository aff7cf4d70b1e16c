"""Small data sets for the tests of annotation."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.testing import FakeDetector, scorer_for

BENCH = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
COW = {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"}


def picture(level: int = 0, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, samples: Sequence[tuple[str, dict[str, Any]]]) -> Path:
    """Write a tar file of samples; a value is bytes, a text, or an object for JSON."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for extension, value in files.items():
                text = value if isinstance(value, str) else json.dumps(value) if not isinstance(value, bytes) else ""
                data = value if isinstance(value, bytes) else text.encode()
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def benches() -> GenEvalScorer:
    """Sees a bench in every image, and nothing else."""
    return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}), batch_size=4)


def brightness(images: Sequence[Any]) -> list[float]:
    return [float(image.float().mean()) for image in images]


def length(images: Sequence[Any], prompts: Sequence[str]) -> list[float]:
    return [float(len(prompt)) for prompt in prompts]
