import json

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from geneval_reward.errors import UsageError
from geneval_reward.generate.lora import add_lora
from geneval_reward.train.tiny import tiny_sd3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TARGETS = ["to_q", "to_k", "to_v"]


@pytest.fixture(scope="module")
def trained():
    """A tiny pipeline with a LoRA of random weights, and that LoRA's weights."""
    pipe = tiny_sd3()
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=generator)
    return pipe, {key: value.contiguous() for key, value in get_peft_model_state_dict(pipe.transformer).items()}


def save_peft(folder, state):
    """A folder as `PeftModel.save_pretrained` writes it, which is what Flow-GRPO and DiffusionNFT call."""
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{key}": value for key, value in state.items()}, folder / "adapter_model.safetensors")
    config = LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS).to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LORA", "from_the_future": 1}))
    return str(folder)


def output(pipe):
    generator = torch.Generator().manual_seed(1)
    part = pipe.transformer
    sample = torch.randn(1, part.config.in_channels, 4, 4, generator=generator)
    text = torch.randn(1, 3, part.config.joint_attention_dim, generator=generator)
    pooled = torch.randn(1, part.config.pooled_projection_dim, generator=generator)
    with torch.no_grad():
        return part(sample, text, pooled, torch.tensor([500.0])).sample


@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_peft_are_loaded_with_their_alpha(trained, tmp_path, nested):
    pipe, state = trained
    folder = save_peft(tmp_path / "checkpoint-60" / "lora", state)
    fresh = tiny_sd3()
    fresh.transformer.load_state_dict(base_weights(pipe))
    plain = output(fresh)
    add_lora(fresh, str(tmp_path / "checkpoint-60") if nested else folder)
    torch.testing.assert_close(output(fresh), output(pipe))
    assert not torch.allclose(output(fresh), plain)


def test_the_scale_holds_for_folders_of_peft(trained, tmp_path):
    pipe, state = trained
    folder = save_peft(tmp_path / "lora", state)
    plain = tiny_sd3()
    plain.transformer.load_state_dict(base_weights(pipe))
    none = output(plain)
    add_lora(plain, folder, 0.0)
    torch.testing.assert_close(output(plain), none)


def base_weights(pipe):
    names = {key: value for key, value in pipe.transformer.state_dict().items() if ".lora_" not in key}
    return {key.replace(".base_layer", ""): value for key, value in names.items()}


@pytest.mark.parametrize("form", ["peft", "diffusers"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {k: v * 0 if "lora_B" in k else v for k, v in state.items()}, "whose up matrices are all zero"),
        (
            lambda state: state | {k.replace("blocks.0", "blocks.77"): v for k, v in state.items()},
            r"of whose \d+ layers \d+ are in the pipeline; take the LoRA of this model",
        ),
        (lambda state: {k: torch.cat([v, v], -1) for k, v in state.items()}, "expected weights that .* can load"),
    ],
    ids=["zero", "half", "larger"],
)
def test_weights_that_would_leave_the_base_model_are_refused(trained, tmp_path, form, change, message):
    state = {key: value.clone() for key, value in change(trained[1]).items()}
    if form == "peft":
        path = save_peft(tmp_path / "lora", state)
    else:
        path = str(tmp_path / "pytorch_lora_weights.safetensors")
        save_file({f"transformer.{key}": value for key, value in state.items()}, path)
    with pytest.raises(UsageError, match=f"^lora: {message}" if message.startswith("exp") else f"^lora: .*{message}"):
        add_lora(tiny_sd3(), path)


def test_keys_of_another_form_say_what_was_found(trained, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({f"model.{key}": value for key, value in trained[1].items()}, path)
    assert load_file(path)
    with pytest.raises(UsageError, match=r"^lora: expected weights"):
        add_lora(tiny_sd3(), str(path))
