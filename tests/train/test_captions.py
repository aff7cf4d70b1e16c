import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.train import Captions, FlowPolicy, add_noise
from geneval_reward.train.tiny import tiny_flux, tiny_sd3


def test_a_batch_depends_on_seed_step_and_rank_alone():
    one = Captions(batch_size=4).batch(7)
    same = Captions(batch_size=4).batch(7)
    assert one.prompts == same.prompts
    assert torch.equal(one.latents, same.latents)
    others = [
        Captions(batch_size=4).batch(8),
        Captions(batch_size=4).batch(7, rank=1),
        Captions(batch_size=4, seed=1).batch(7),
    ]
    assert all(not torch.equal(one.latents, other.latents) for other in others)
    assert len({one.seed, *(other.seed for other in others)}) == 4
    held_out = Captions(batch_size=4).with_seed(1)
    assert torch.equal(held_out.batch(7).latents, others[2].latents)


def test_captions_are_not_of_the_suite_but_for_single_objects():
    held_out = {spec.prompt for spec in pocket_suite() if spec.tag != "single_object"}
    captions = Captions(batch_size=64)
    assert not held_out & {prompt for step in range(5) for prompt in captions.batch(step).prompts}


def test_noise_is_mixed_at_times_of_each_sample():
    policy = FlowPolicy("pocket")
    batch = Captions(batch_size=4).batch(0)
    noised = add_noise(policy, policy.transformer, batch)
    t = noised.t.view(-1, 1, 1, 1)
    assert torch.allclose(noised.x - t * noised.target, batch.latents, atol=1e-5)
    assert torch.equal(noised.x, add_noise(policy, policy.transformer, batch).x)
    assert ((noised.t > 0) & (noised.t < 1)).all()
    assert len(set(noised.t.tolist())) == 4


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_the_dense_model_samples_latents_where_there_are_no_images(make):
    policy = FlowPolicy(make())
    captions = Captions(["a photo of a bench"], batch_size=2)
    batch = captions.batch(0)
    assert batch.latents is None
    noised = add_noise(policy, policy.transformer, batch, steps=2)
    t = noised.t.view(-1, 1, 1, 1)
    x0 = noised.x - t * noised.target
    assert x0.shape == (2, *policy.latent_shape)
    assert not torch.allclose(x0[0], x0[1])


def test_prompts_that_cannot_be_read_are_refused():
    with pytest.raises(UsageError):
        Captions("no such thing")
