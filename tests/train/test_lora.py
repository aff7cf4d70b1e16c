import pytest
import torch

from geneval_reward.train import FlowPolicy, PolicyAverage, PolicyWeights, policy_state
from geneval_reward.train.lora import export_lora
from geneval_reward.train.tiny import tiny_flux, tiny_sd3


def checkpoint(path, family, rank=4):
    policy = FlowPolicy(family())
    weights = PolicyWeights(policy.transformer, lora_rank=rank, old=True)
    average = PolicyAverage(weights)
    with torch.no_grad():
        for n, p in enumerate(weights.trained().values()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n)))
    average.update()
    torch.save({"flow_rl": policy_state(weights, average)}, path)
    return policy, weights, average


def velocity(policy, transformer):
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.velocity(transformer, policy.encode(["a"]))(x, torch.tensor([0.5]))


@pytest.mark.parametrize("family", [tiny_sd3, tiny_flux])
def test_peft_reads_what_was_trained(tmp_path, family):
    from peft import PeftModel

    policy, weights, average = checkpoint(tmp_path / "last.ckpt", family)
    with average.average_parameters():
        expected = {"average": velocity(policy, weights.transformer)}
    expected["trained"] = velocity(policy, weights.transformer)
    for name, wanted in expected.items():
        folder = export_lora(tmp_path / "last.ckpt", tmp_path / name, weights=name)
        fresh = FlowPolicy(family())
        loaded = PeftModel.from_pretrained(fresh.transformer, folder).base_model.model
        torch.testing.assert_close(velocity(fresh, loaded), wanted)
    assert not torch.equal(expected["average"], expected["trained"])


def test_what_has_no_adapters_is_refused(tmp_path):
    checkpoint(tmp_path / "full.ckpt", tiny_sd3, rank=0)
    with pytest.raises(ValueError, match=r"expected adapters, got .*full.ckpt of full fine-tuning"):
        export_lora(tmp_path / "full.ckpt", tmp_path / "lora")
    torch.save({}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="expected one of a recipe"):
        export_lora(tmp_path / "other.ckpt", tmp_path / "lora")
