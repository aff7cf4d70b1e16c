import pytest
import torch
from scipy.stats import chisquare

from geneval_reward.generate import SeededTokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def draw(n, **options):
    return SeededTokens(range(n), **options)(None, LOGITS.repeat(n, 1)).argmax(-1)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (2.0, 3)])
def test_it_draws_from_the_softmax(temperature, top_k) -> None:
    scores = LOGITS / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    expected = torch.softmax(scores.double(), -1)
    counts = torch.bincount(draw(4000, temperature=temperature, top_k=top_k), minlength=4)
    alive = expected > 0
    assert counts[~alive].sum() == 0
    assert chisquare(counts[alive], 4000 * expected[alive]).pvalue > 1e-3


def test_a_row_depends_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    steps = torch.randn(6, 4, 16)
    whole = SeededTokens([3, 9, 3, 4])
    alone = SeededTokens([9])
    drawn = torch.stack([whole(None, scores).argmax(-1) for scores in steps])
    assert drawn[:, 1].tolist() == [int(alone(None, scores[1:2]).argmax()) for scores in steps]
    assert len(set(draw(50).tolist())) > 1


def test_half_precision_and_impossible_tokens() -> None:
    scores = torch.tensor([[0.0, -torch.inf]], dtype=torch.bfloat16).repeat(200, 1)
    out = SeededTokens(range(200))(None, scores)
    assert out.dtype == torch.float32
    assert not out.isnan().any()
    assert (out.argmax(-1) == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SeededTokens([1], temperature=0), "temperature: expected a number > 0, got 0"),
        (lambda: SeededTokens([1], top_k=-1), "top_k: expected an integer >= 0, got -1"),
        (
            lambda: SeededTokens([1])(None, torch.zeros(2, 4)),
            r"expected one row per seed \(1\), got 2; put guidance before",
        ),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
