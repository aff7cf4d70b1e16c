import importlib.util
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def load(path, name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def worker():
    """The runs that tests share with the processes that they start."""
    return load(HERE / "worker.py", "recipes_worker")


@pytest.fixture(scope="session")
def recipe():
    """A recipe file by name."""
    return lambda name: load(ROOT / "recipes" / f"{name}.py", f"recipe_{name}")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices: more threads only cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_configure(config):
    # Lightning's own, on every fit without a logger or with one batch an epoch.
    for line in (
        r"ignore:.*LeafSpec.*",
        r"ignore:.*does not have many workers.*",
        r"ignore:.*fit_loop.*:UserWarning",
        r"ignore:.*Checkpoint directory.*",
        r"ignore:(?s).*(JSONARGPARSE|add_instantiator).*:DeprecationWarning",  # of LightningCLI's calls
        r"ignore:.*Mismatch dtype between input and weight.*:UserWarning",
    ):
        config.addinivalue_line("filterwarnings", line)
