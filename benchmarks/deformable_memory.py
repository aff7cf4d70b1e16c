"""Our deformable attention beside that of `transformers`: peak memory and CPU time of the sampling for one image of 800 x 800.

`rows` is what runs on a CPU, `levels` what runs elsewhere.

    python benchmarks/deformable_memory.py [--rounds 3]

Each form runs in processes of its own, which report how far the peak of the resident memory rose above its inputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

CHILD = """
import json, resource, sys, time
import torch
from geneval_reward.vision.detectors.deformable import sample_levels, sample_rows
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention
form = {"rows": sample_rows, "levels": sample_levels, "transformers": multi_scale_deformable_attention}[sys.argv[1]]
torch.set_num_threads(1)
shapes = [(25, 25), (50, 50), (100, 100)]
count = sum(h * w for h, w in shapes)
def inputs(shapes, count):
    value = torch.randn(1, count, 8, 32)
    return value, shapes, torch.rand(1, count, 8, 3, 4, 2), torch.rand(1, count, 8, 12).softmax(-1).view(1, count, 8, 3, 4)
with torch.inference_mode():
    form(*inputs([(2, 2)] * 3, 12))
    given = inputs(shapes, count)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    form(*given)
    print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, time.process_time() - start]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[list[float]]] = {"rows": [], "levels": [], "transformers": []}
    for _ in range(rounds):
        for form, values in found.items():
            done = subprocess.run([sys.executable, "-c", CHILD, form], capture_output=True, text=True, check=True)
            values.append(json.loads(done.stdout))
    print("| form | MiB above the inputs | CPU seconds |\n|---|---:|---:|")
    middle = {form: [statistics.median(column) for column in zip(*rows, strict=True)] for form, rows in found.items()}
    for form, (memory, seconds) in middle.items():
        print(f"| {form} | {memory:.0f} | {seconds:.2f} |")
    for form in ("rows", "levels"):
        ratios = [a / b for a, b in zip(middle[form], middle["transformers"], strict=True)]
        print(f"| {form} / transformers | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
