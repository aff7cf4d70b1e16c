"""One local Ray cluster of two CPUs, and images for it."""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from geneval_reward.prompts import official_suite
from geneval_reward.results.layout import write_prompt_folder

# Before Ray is imported: it would copy the working folder of `uv run` to its workers, and report home.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster with room for two workers."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    # Ray does not wait for the processes it has ended, and Python says so when it forgets them: let that be now.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images, each of another width from 16 on, of eight prompts."""
    root = tmp_path_factory.mktemp("images")
    for number, spec in enumerate(official_suite()[:8]):
        samples = write_prompt_folder(root, number, spec)
        for index in range(2):
            Image.new("RGB", (16 + 2 * number + index, 16)).save(samples / f"{index:04d}.png")
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a cluster is used: Ray's own warnings, while it reads its settings and when it ends."""
    for item in items:
        if "two_workers" in getattr(item, "fixturenames", ()):
            for kind in (
                "DeprecationWarning",
                "FutureWarning",
                "ResourceWarning",
                "pytest.PytestUnraisableExceptionWarning",
            ):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))
