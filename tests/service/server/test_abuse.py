"""The quick form of the abuse benchmark, against a real server."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "serve_abuse.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_abuse():
    command = [sys.executable, str(BENCHMARK), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "pickles executed: 0 of" in done.stdout
    assert "passed" in done.stdout
