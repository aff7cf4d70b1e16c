#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml declares into a temporary environment and tests the core there.
# It downloads several GB; CI runs it once a week (.github/workflows/scheduled.yml).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet --python 3.11 "$folder/venv"
uv pip install --quiet --python "$folder/venv/bin/python" --resolution lowest-direct \
    -e ".[paper,lightning,report]" "pytest>=8.3" "pytest-timeout>=2.3" "hypothesis>=6.110"
"$folder/venv/bin/python" -m pytest -q -p no:cacheprovider -W default \
    tests/judge tests/prompts tests/stats tests/rl tests/test_metric.py tests/test_scorer.py tests/results
