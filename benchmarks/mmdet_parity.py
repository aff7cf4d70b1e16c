"""The `paper` backend beside mmdet itself, at the full published size, with random weights.

    python benchmarks/mmdet_parity.py [--version 2.28.2] [--folder DIR] [--images 2] [--json]

mmdet and the Python part of mmcv are installed into a folder of their own (a temporary one, or DIR, which is kept for
the next time), so that no environment is changed. mmcv's compiled operators are replaced by a stub that raises when it is called:
on a CPU this model calls none. Weights are random, because the published ones cannot be fetched everywhere. Both backends run
every image in float32 on the CPU; all detections are compared.

Exit code 0: the same objects. 1: they differ. 3: mmdet cannot be installed here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PACKAGES = {
    "2.28.2": ("mmdet==2.28.2", "mmcv==1.7.2"),
    "3.3.0": ("mmdet==3.3.0", "mmcv-lite==2.1.0", "mmengine==0.10.7", "shapely", "termcolor"),
}
COMMON = ("six", "addict", "yapf", "pycocotools", "terminaltables")
NOT_INSTALLABLE = 3


def install(version: str, folder: Path) -> None:
    """Put mmdet into a folder, without its dependencies: torch and the like are here, and the rest is not called."""
    if (folder / "mmdet").is_dir() and (folder / "mmcv").is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    constraint = folder / "build-constraint.txt"
    constraint.write_text("setuptools<70\n")  # mmcv's setup.py needs pkg_resources
    uv = shutil.which("uv")
    front = (
        [uv, "pip", "install", "--quiet", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install"]
    )
    command = [*front, "--target", str(folder), "--no-deps", "--build-constraint", str(constraint)]
    result = subprocess.run(
        [*command, *PACKAGES[version], *COMMON],
        env=os.environ | {"MMCV_WITH_OPS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"mmdet {version} cannot be installed here: {reason}", file=sys.stderr)
        sys.exit(NOT_INSTALLABLE)


class Stub(types.ModuleType):
    """Stands for mmcv's compiled operators."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f"mmcv's compiled operator {name} was called; on a CPU this model needs none")

        return operator


def random_checkpoint(path: Path) -> None:
    """Save mmdet's own model with random weights, in mmdet's own format."""
    import torch
    from mmdet.apis import init_detector

    from geneval_reward.vision.detectors import mmdet as adapter

    package, _ = adapter.import_mmdet()
    config = adapter.find_config(int(package.__version__.split(".")[0]))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = init_detector(str(config), None, device="cpu")
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=list(PACKAGES), default="2.28.2")
    parser.add_argument("--folder", type=Path, help="Where mmdet is installed and kept.")
    parser.add_argument("--images", type=int, default=2, help="How many of the packaged photographs.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per image.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "packages"
        install(args.version, folder)
        # At the end, so that libraries which are installed already come first.
        sys.path.append(str(folder))
        stub = sys.modules["mmcv._ext"] = Stub("mmcv._ext")
        stub.__spec__ = ModuleSpec("mmcv._ext", None)
        sys.exit(compare_all(Path(scratch) / "random.pth", args.images, args.json))


def compare_all(checkpoint: Path, count: int, as_json: bool) -> int:
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
    from geneval_reward.vision.detectors.mmdet import MMDetDetector
    from geneval_reward.vision.images import as_image
    from geneval_reward.vision.parity import compare
    from geneval_reward.vision.photos import PHOTOS, photo
    from geneval_reward.vision.protocols import Wanted

    random_checkpoint(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights are not the published ones
        ours = Mask2FormerDetector.from_pretrained(checkpoint, device="cpu", precision="fp32")
    theirs = MMDetDetector.from_pretrained(checkpoint, device="cpu")
    everything = Wanted(None, frozenset(range(80)), 0.0)
    failures = 0
    for name in list(PHOTOS)[:count]:
        image, found, seconds = as_image(photo(name)), [], []
        for detector in (ours, theirs):
            start = time.process_time()
            found += detector.detect([image], [everything])
            seconds.append(time.process_time() - start)
        difference = compare(found[0], found[1], 0.0)
        failures += not difference.same
        row = {"photo": name, **difference.to_dict(), "cpu_seconds": seconds, "input": theirs.fingerprint()["input"]}
        if as_json:
            print(json.dumps(row))
        else:
            print(
                f"{name}: {'same counts' if difference.same else 'DIFFERENT'}, {difference.matched} of "
                f"{difference.objects[1]} objects matched; at most {difference.confidence:.1e} in confidence, "
                f"{difference.box:g} px in boxes, mask IoU >= {difference.mask_iou:.4f}; paper / mmdet CPU time "
                f"{seconds[0] / seconds[1]:.2f}"
            )
    return int(failures > 0)


if __name__ == "__main__":
    main()
