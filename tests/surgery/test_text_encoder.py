import pytest
import torch
from torch import nn

from geneval_reward.errors import FileError, UsageError
from geneval_reward.pocket import load_pipeline
from geneval_reward.surgery import Plan, TextEncoderPlan, fingerprint, parameter_share, stored_bytes
from geneval_reward.surgery.sub_blocks import find_sub_blocks
from tests.surgery.tiny import FAMILIES, clip, gemma, run, t5, tiny

ENCODERS = {"t5": t5, "clip": clip, "gemma": gemma}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    return ENCODERS[request.param]()


class Holder:
    """As much of a pipeline as a plan needs."""

    def __init__(self, text_encoder):
        self.text_encoder = text_encoder


def plan(encoder, skip=(), reuse=()):
    return TextEncoderPlan(part="text_encoder", model=fingerprint(encoder), skip=skip, reuse=reuse)


def encode(encoder, **more):
    with torch.no_grad():
        return encoder(input_ids=torch.arange(1, 7).reshape(2, 3), **more).last_hidden_state


def test_sub_blocks_are_attention_and_feed_forward_in_turn(encoder):
    assert [one.kind for one in find_sub_blocks(encoder)] == ["attention", "feed-forward"] * 3


def test_an_attention_that_looks_at_itself_alone_is_attention():
    torch.manual_seed(0)
    encoder = t5()
    with torch.no_grad():
        for block in encoder.encoder.block:
            attention = block.layer[0].SelfAttention
            attention.q.weight.copy_(100 * torch.eye(*attention.q.weight.shape))
            attention.k.weight.copy_(100 * torch.eye(*attention.k.weight.shape))
    assert [one.kind for one in find_sub_blocks(encoder)] == ["attention", "feed-forward"] * 3


def test_every_sub_block_can_be_skipped_and_frees_what_it_says(encoder):
    whole, before = encode(encoder), stored_bytes(encoder)
    for number, one in enumerate(find_sub_blocks(encoder)):
        with plan(encoder, (number,)).apply(Holder(encoder)) as applied:
            assert applied.removed_bytes == before - stored_bytes(encoder) == 4 * one.parameters
            assert not torch.allclose(encode(encoder), whole, atol=1e-4)
        assert torch.equal(encode(encoder), whole)


def test_skipping_everything_leaves_embedding_and_last_norm(encoder):
    with plan(encoder, tuple(range(6))).apply(Holder(encoder)):
        got = encode(encoder)
        tokens = torch.arange(1, 7).reshape(2, 3)
        norm = [one for one in encoder.modules() if "norm" in type(one).__name__.lower()][-1]
        if isinstance(encoder, type(t5())):
            embedded = encoder.get_input_embeddings()(tokens)
        elif isinstance(encoder, type(clip())):
            embedded = encoder.text_model.embeddings(input_ids=tokens)
        else:
            embedded = encoder.get_input_embeddings()(tokens)
        assert torch.allclose(got, norm(embedded), atol=1e-5)


def test_a_skipped_branch_is_a_branch_with_a_zero_output_matrix(encoder):
    """The same as setting the weights of the branch's last matrix to zero, which no code of ours touches."""
    last = {"attention": ("o", "out_proj", "o_proj"), "feed-forward": ("wo", "fc2", "down_proj")}
    for number, one in enumerate(find_sub_blocks(encoder)):
        with plan(encoder, (number,)).apply(Holder(encoder)):
            skipped = encode(encoder)
        matrix = next(m for n, m in one.seam.module.named_modules() if n.split(".")[-1] in last[one.kind])
        kept = {name: value.clone() for name, value in matrix.state_dict().items()}
        with torch.no_grad():
            for parameter in matrix.parameters():
                parameter.zero_()
        assert torch.allclose(encode(encoder), skipped, atol=1e-5)
        matrix.load_state_dict(kept)


def test_a_reused_sub_block_is_that_of_a_model_with_its_weights(encoder):
    """Re-use of 2 in the place of 0 and 4 is the same as copying its weights there."""
    sub_blocks = find_sub_blocks(encoder)
    for place in (0, 4, 5):
        other = 2 if place < 5 else 1
        with plan(encoder, (place,), ((place, other),)).apply(Holder(encoder)) as applied:
            reused = encode(encoder)
            assert applied.removed_bytes == 4 * sub_blocks[place].parameters
        state = {name: value.clone() for name, value in encoder.state_dict().items()}
        for side in ("name", "before", "after"):
            here, there = (getattr(sub_blocks[number], side) for number in (place, other))
            if here:
                source, target = encoder.get_submodule(there), encoder.get_submodule(here)
                # T5's first attention alone has the position bias.
                target.load_state_dict(source.state_dict(), strict=False)
        assert torch.allclose(encode(encoder), reused, atol=1e-5)
        encoder.load_state_dict(state)


def test_the_position_bias_of_t5_survives():
    torch.manual_seed(0)
    encoder = t5()
    nn.init.normal_(encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight, std=20)
    turned = torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([[7, 6, 5, 4, 3]])
    for changes in (((0,), ()), ((0,), ((0, 2),))):
        with plan(encoder, *changes).apply(Holder(encoder)), torch.no_grad():
            one, other = (encoder(input_ids=ids).last_hidden_state for ids in turned)
            assert not torch.allclose(one[:, 2], other[:, 2], atol=1e-3), "the order of the words is lost"
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    nn.init.zeros_(bias)
    with torch.no_grad():
        one, other = (encoder(input_ids=ids).last_hidden_state for ids in turned)
    assert torch.allclose(one[:, 2], other[:, 2], atol=1e-3)


def test_masks_reach_the_kept_sub_blocks(encoder):
    tokens = torch.tensor([[3, 4, 5, 6]])
    mask = torch.tensor([[1, 1, 0, 0]])
    changed = torch.tensor([[3, 4, 7, 8]])
    with plan(encoder, (0, 3), ((0, 2),)).apply(Holder(encoder)), torch.no_grad():
        one, other = (encoder(input_ids=ids, attention_mask=mask).last_hidden_state for ids in (tokens, changed))
    assert torch.allclose(one[:, :2], other[:, :2], atol=1e-5)


def test_a_cache_does_not_collect_the_keys_of_a_reused_attention():
    torch.manual_seed(0)
    encoder = gemma()
    assert encoder.config.use_cache
    with plan(encoder, (2,), ((2, 0),)).apply(Holder(encoder)):
        assert not encoder.config.use_cache
        once = encode(encoder)
        assert torch.equal(encode(encoder), once)
    assert encoder.config.use_cache


@pytest.mark.parametrize("family", FAMILIES)
def test_every_text_encoder_of_every_family(family):
    pipeline = tiny(family)
    for part, encoder in pipeline.components.items():
        if part.startswith("text_encoder"):
            whole = run(pipeline, family)
            cut = TextEncoderPlan(part=part, model=fingerprint(encoder), skip=(0, 3), reuse=((3, 1),))
            with cut.apply(pipeline) as applied:
                assert applied.removed_bytes > 0
                assert not torch.equal(run(pipeline, family), whole)
            assert torch.equal(run(pipeline, family), whole)


def test_sparsity_counts_the_embedding():
    encoder = load_pipeline().text_encoder
    sub_blocks = find_sub_blocks(encoder)
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    assert parameter_share(encoder, sub_blocks, range(12)) == pytest.approx((5 * 16448 + 16384 + 6 * 24640) / whole)
    assert 0.9 < parameter_share(encoder, sub_blocks, range(12)) < 1


def test_a_cut_encoder_is_not_cut_again(encoder):
    for first in (plan(encoder, (0,)), plan(encoder, (3,)), plan(encoder, (0,), ((0, 2),))):
        with first.apply(Holder(encoder)) as applied:
            with pytest.raises(UsageError, match="put all changes into one plan"):
                plan(encoder, (1,)).apply(Holder(encoder))
            assert applied.removed_bytes > 0


@pytest.mark.parametrize(
    ("skip", "reuse", "message"),
    [
        ((12,), (), "skip: expected numbers of sub-blocks, 0 to 5, got 12"),
        ((-1,), (), "got -1"),
        (("a",), (), "got 'a'"),
        ((1, 1), (), "every sub-block once"),
        ((1,), ((2, 0),), "places that are skipped, got 2"),
        ((1, 3), ((1, 3),), "a sub-block that is kept in the place of 1, got 3"),
        ((1,), ((1, 2),), "the same kind in the place of 1"),
    ],
)
def test_plans_that_cannot_be(skip, reuse, message):
    torch.manual_seed(0)
    encoder = t5()
    modules = list(encoder.modules())
    with pytest.raises(UsageError, match=message):
        plan(encoder, skip, reuse).apply(Holder(encoder))
    assert list(encoder.modules()) == modules


def test_files_that_are_no_plans():
    with pytest.raises(FileError, match="skip as a list"):
        Plan.from_json('{"kind": "text_encoder", "part": "t", "model": "m", "skip": 3}')
    read = Plan.from_json('{"kind": "text_encoder", "part": "t", "model": "m", "skip": [3], "reuse": [[3, 1]]}')
    assert read == TextEncoderPlan(part="t", model="m", skip=(3,), reuse=((3, 1),))


def test_an_encoder_without_sub_blocks_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.layers = nn.ModuleList([nn.LayerNorm(8)])

        def forward(self, input_ids):
            return self.layers[0](self.embed(input_ids))

    with pytest.raises(UsageError, match="cannot be cut into sub-blocks"):
        find_sub_blocks(Flat())
