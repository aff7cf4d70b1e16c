"""Each model's file calls its package as the package wants to be called: a stand-in with the same signatures writes it down.

The models themselves were out of reach where this was written. Each file runs in a real child process.
"""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from geneval_reward.generate import ForeignGenerator

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "recipes" / "generators").glob("*.py"))
STANDINS = Path(__file__).parent / "standins"
PROMPT, SEED = "a photo of a bench", 2**40 + 7
LOWRES = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
OVIS = (
    "<image>\nDescribe the image by detailing the color, shape, size, texture, quantity, text, and spatial relationships of the "
    "objects:{prompt}"
)

# For each file: the class, options, what it says of itself, calls while loading, calls for one image. `steps` and the like are
# given where the class takes them, with other values than its own, so that one that is not handed on is found.
CASES = {
    "tokenflow": (
        "TokenFlow",
        {"tokenizer": "tok.pt", "device": "cpu", "loop": 3, "guidance": 6.5},
        ("given", None, LOWRES),
        [
            [
                "load",
                {"path": "ByteFlow-AI/TokenFlow-t2i", "attn_implementation": "eager", "mm_vision_tower": "tok.pt"},
            ],
            [
                "tokenizer",
                {
                    "path": "ByteFlow-AI/TokenFlow-t2i",
                    "model_max_length": 1024,
                    "padding_side": "right",
                    "use_fast": False,
                },
            ],
        ],
        [
            ["encode", {"text": PROMPT, "max_text_token_num": 128}],
            ["encode", {"text": LOWRES, "max_text_token_num": 128}],
            [
                "sample",
                {"texts": [PROMPT, LOWRES], "seed": SEED, "cfg": 6.5, "topk": [1200, 100, 1], "topp": [0.8, 0.8, 0]},
            ],
        ],
    ),
    "orthus": (
        "Orthus",
        {"guidance": 4.5, "attention": "eager"},
        ("global", None, "Generate an image."),
        [
            ["processor", {"path": "SJTU-Deng-Lab/Orthus-7B-instruct"}],
            [
                "load",
                {
                    "path": "SJTU-Deng-Lab/Orthus-7B-instruct",
                    "device_map": "auto",
                    "torch_dtype": "torch.bfloat16",
                    "attention": "eager",
                },
            ],
        ],
        [
            ["inputs", {"device": "cpu", "dtype": "torch.bfloat16"}],
            [
                "sample",
                {"texts": [PROMPT, "Generate an image."], "mode": "image-only", "cfg_scale": 4.5, "use_cache": True},
            ],
        ],
    ),
    "unilip": (
        "UniLIP",
        {"path": "UniLIP-3B", "guidance": 3.5},
        (
            "given",
            "<|im_start|>user\nGenerate an image: {prompt}<|im_end|>\n<|im_start|>assistant\n<img>",
            "<|im_start|>user\nGenerate an image.<|im_end|>\n<|im_start|>assistant\n<img>",
        ),
        [["no_init", {}], ["load", {"name": "UniLIP_InternVLForCausalLM", "path": "UniLIP-3B"}]],
        [
            [
                "sample",
                {
                    "text": [
                        f"<|im_start|>user\nGenerate an image: {PROMPT}<|im_end|>\n<|im_start|>assistant\n<img>",
                        "<|im_start|>user\nGenerate an image.<|im_end|>\n<|im_start|>assistant\n<img>",
                    ],
                    "guidance": 3.5,
                },
            ]
        ],
    ),
    "ovis_u1": (
        "OvisU1",
        {"device": "cpu", "guidance": 4.0, "steps": 30, "size": 512},
        ("given", OVIS, "<image>\nGenerate an image."),
        [["load", {"path": "AIDC-AI/Ovis-U1-3B", "torch_dtype": "torch.bfloat16", "trust_remote_code": True}]],
        # The function of the repository puts the template around the prompt.
        [["sample", {"prompt": PROMPT, "size": [512, 512], "steps": 30, "cfg": 4.0, "seed": SEED}]],
    ),
    "unipic": (
        "UniPic",
        {"device": "cpu", "guidance": 2.5, "steps": 16, "path": "weights.bin"},
        ("global", "Generate an image: {prompt}", "Generate an image."),
        [
            ["config", {"path": "configs/models/qwen2_5_1_5b_kl16_mar_h.py"}],
            ["weights", {"keys": ["x"], "strict": False}],
        ],
        [
            [
                "sample",
                {
                    "texts": [f"Generate an image: {PROMPT}", "Generate an image."],
                    "steps": 16,
                    "cfg": 2.5,
                    "schedule": "constant",
                    "temperature": 1.0,
                    "shape": [64, 64],
                },
            ]
        ],
    ),
    "show_o": (
        "ShowO",
        {"device": "cpu", "guidance": 1.75, "steps": 16, "config": "configs/showo_demo.yaml"},
        ("given", None, None),
        [
            ["config", {"path": "configs/showo_demo.yaml"}],
            ["tokenizer", {"path": "phi", "padding_side": "left"}],
            ["prompting", {"max_text_len": 128}],
            ["decoder", {"path": "magvit"}],
            ["load", {"path": "showo"}],
            ["schedule", {"method": "cosine"}],
        ],
        [
            ["mask", {"ids": [1, 2, 3], "rm_pad_in_image": True}],
            [
                "sample",
                {
                    "texts": [PROMPT, ""],
                    "steps": 16,
                    "guidance": 1.75,
                    "temperature": 1.0,
                    "schedule": "cosine",
                    "device": "cpu",
                },
            ],
        ],
    ),
    "show_o2": (
        "ShowO2",
        {"device": "cpu", "guidance": 5.0, "steps": 20},
        ("given", None, None),
        [
            ["config", {"path": "configs/showo2_1.5b_demo_432x432.yaml"}],
            ["tokenizer", {"path": "qwen", "llm_name": "qwen2_5"}],
            ["vae", {"path": "Wan2.1_VAE.pth", "dtype": "torch.bfloat16", "device": "cpu"}],
            ["load", {"path": "showo2", "use_safetensors": False}],
            [
                "transport",
                {"path": "Linear", "prediction": "velocity", "snr": "lognorm", "shift": True, "length": 5},
            ],
            ["ode", {"method": "euler", "steps": 20, "factor": 3.0, "reverse": False}],
        ],
        [
            ["encode", {"images": 5, "texts": 119}],
            ["sample", {"texts": [PROMPT, ""], "guidance": 5.0, "dtype": "torch.bfloat16"}],
        ],
    ),
    "infinity": (
        "Infinity",
        {"path": "2b.pth", "vae": "d32.pth", "text_encoder": "t5", "guidance": 3.0, "tau": 0.5},
        ("given", None, None),
        [
            ["text", {"path": "t5"}],
            ["vae", {"path": "d32.pth", "type": 32, "patchify": 0}],
            [
                "load",
                {
                    "add_lvl_embeding_only_first_block": 1,
                    "apply_spatial_patchify": 0,
                    "bf16": 1,
                    "cfg_insertion_layer": 0,
                    "checkpoint_type": "torch",
                    "model_path": "2b.pth",
                    "model_type": "infinity_2b",
                    "pn": "1M",
                    "rope2d_each_sa_layer": 1,
                    "rope2d_normalized_by_hw": 2,
                    "text_channels": 2048,
                    "text_encoder_ckpt": "t5",
                    "use_bit_label": 1,
                    "use_scale_schedule_embedding": 0,
                    "vae_path": "d32.pth",
                    "vae_type": 32,
                },
            ],
        ],
        [
            [
                "sample",
                {
                    "prompt": PROMPT,
                    "seed": SEED,
                    "cfg": 3.0,
                    "tau": 0.5,
                    "cfg_sc": 3,
                    "top": [900, 0.97],
                    "layer": [0],
                    "vae_type": 32,
                    "gt_leak": 0,
                },
            ]
        ],
    ),
    "bagel": (
        "Bagel",
        {"path": "MoT", "device": "cpu", "guidance": 3.0, "steps": 25, "size": 64},
        ("given", None, None),
        [
            ["json", {"path": "MoT/llm_config.json"}],
            ["json", {"path": "MoT/vit_config.json"}],
            ["vae", {"path": "MoT/ae.safetensors"}],
            [
                "bagel",
                {
                    "visual_gen": True,
                    "visual_und": True,
                    "latent_patch_size": 2,
                    "max_latent_size": 64,
                    "vit_max_num_patch_per_side": 70,
                    "connector_act": "gelu_pytorch_tanh",
                },
            ],
            ["linear", {}],
            ["weights", {"path": "MoT/ema.safetensors", "device": "cpu"}],
            ["state", {"strict": False}],
            ["tokenizer", {"path": "MoT"}],
        ],
        [
            ["text", {"prompt": PROMPT, "layers": 3}],
            [
                "sample",
                {
                    "timesteps": 25,
                    "shift": 3.0,
                    "guidance": 3.0,
                    "interval": [0, 1.0],
                    "renorm": ["global", 0.0],
                    "image_guidance": 1.0,
                },
            ],
        ],
    ),
}


def make_package(name, folder):
    """Write the modules that the model's file imports; all are views of one stand-in."""
    shutil.copy(STANDINS / "record.py", folder)
    shutil.copy(STANDINS / f"{name}.py", folder / "standin.py")
    modules = ast.literal_eval(
        re.search(r"^MODULES = (\(.*?\))$", (STANDINS / f"{name}.py").read_text(), re.M | re.S)[1]
    )
    for module in modules:
        place = folder.joinpath(*module.split("."))
        place.mkdir(parents=True)
    for module in modules:
        (folder.joinpath(*module.split(".")) / "__init__.py").write_text("from standin import *  # noqa\n")
        for parent in Path(module.replace(".", "/")).parents[:-1]:
            # Without it, an installed package of the same name would be found first.
            (folder / parent / "__init__.py").touch()


def calls(folder):
    path = folder / "calls.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    return found


def test_every_file_has_a_case():
    assert [path.stem for path in FILES] == sorted(CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_tells_what_a_run_needs(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    header = ast.get_docstring(ast.parse(text, feature_version=(3, 8)))
    words = " ".join(header.split())
    assert re.search(r"^Repository  https://github.com/[\w-]+/[\w-]+ at [0-9a-f]{7}", header, re.M)
    for word in ("Pins", "Licence", "Weights", "Published", "Seeds", "Not known", "uv venv", "out of reach"):
        assert word in words
    assert f"geneval-reward generate {path.stem} " in header


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_package_is_called_as_it_wants(name, tmp_path):
    kind, options, (seeding, template, negative), loading, image = CASES[name]
    make_package(name, tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights.bin")
    file = ROOT / "recipes" / "generators" / f"{name}.py"
    with ForeignGenerator(
        f"{file}:{kind}", python=sys.executable, cwd=tmp_path, options=options, device="cpu"
    ) as model:
        about = model.about
        assert calls(tmp_path) == loading
        assert (about.seeding, model.notes.template, model.notes.negative_prompt) == (seeding, template, negative)
        assert model.notes.trained_on_template == (name == "unilip")
        for option in {"guidance", "steps", "tau"} & options.keys():
            assert options[option] in (about.settings.get(option), about.settings.get("timesteps"))

        (first,) = model.generate([PROMPT], [SEED])
        assert calls(tmp_path) == image
        again, other, same = model.generate([PROMPT, PROMPT, "a photo of two dogs"], [SEED, SEED + 1, SEED])
    assert again.tobytes() == first.tobytes()
    assert other.tobytes() != first.tobytes()
    # What the stand-ins paint depends on the seed alone, so this shows that the prompts of a call do not share their noise.
    assert same.tobytes() == first.tobytes()
    if name == "infinity":
        assert all(pixel[2] == 0 for pixel in first.get_flattened_data())  # blue came first
