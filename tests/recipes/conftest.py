import importlib.util
import os
import subprocess
import sys
from contextlib import contextmanager
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


@pytest.fixture
def two_processes():
    """Runs worker.py with some arguments in two gloo processes; `with` waits for them, and ends them on any error."""

    @contextmanager
    def run(*arguments):
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(20000 + os.getpid() % 20000),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": "test",
            "OMP_NUM_THREADS": "1",
        }
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), *map(str, arguments)],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            yield
            for process in processes:
                told, _ = process.communicate(timeout=900)
                assert process.returncode == 0, told[-3000:]
        finally:
            for process in processes:
                process.kill()
                process.communicate()

    return run


@pytest.fixture
def assert_rows_equal():
    """Logged numbers of two runs, except times and what is an average over batches, whose size depends on the ranks."""

    def check(one, two, case):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert set(left) == set(right)
            for name, value in left.items():
                if not name.startswith("time/") and not name.endswith(("_max", "/seconds")):
                    assert right[name] == pytest.approx(value, rel=2e-4, abs=2e-6), (case, name)

    return check


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
