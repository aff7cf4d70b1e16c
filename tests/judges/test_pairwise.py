import pytest
import torch

from geneval_reward.errors import GenEvalError, UsageError
from geneval_reward.judges import LocalModel, PairJudge, PairReward
from geneval_reward.judges.pairwise import ASPECTS, TASK_ASPECTS, preference_of
from geneval_reward.prompts import TAGS
from geneval_reward.reward import CompositeReward


def picture(value):
    return torch.full((3, 8, 8), value, dtype=torch.uint8)


def brighter(images, _):
    first, second = (int(image.float().mean()) // 50 for image in images)
    return f"[Feedback]: fine, 3 dogs. [Result]: {min(5, 1 + first)} {min(5, 1 + second)}"


@pytest.fixture
def judge(oracle):
    return PairJudge(oracle(None, writes=brighter))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Feedback]: 1 2. [Result]: 5 1", 1),
        ("[Result]: 2 4", -1),
        ("[Result]: 3,3", 0),
        ("Result: (4 5)", -1),
        ("[Feedback]: ok\n[Result]:\n2 1", 1),
        ("[Result]: 4.5 3", None),
        ("[Result]: 4 6", None),
        ("[Result]: 4", None),
        ("the first one", None),
        ("", None),
    ],
)
def test_scores_are_read_or_nothing_is(text, expected):
    assert preference_of(text) == expected


def test_both_orders_are_asked(oracle):
    seen = []

    def writes(images, text):
        seen.append([int(image.max()) for image in images])
        return brighter(images, text)

    assert PairJudge(oracle(None, writes=writes)).judge(picture(200), picture(10), "a photo of a dog") == 1
    assert seen == [[200, 10], [10, 200]]


def test_an_answer_that_follows_the_order_is_a_tie(oracle):
    first = PairJudge(oracle(None, writes=lambda *_: "[Result]: 5 1"))
    assert first.judge(picture(200), picture(10), "a photo of a dog") == 0
    [found] = first.compare([(picture(200), picture(10), "a photo of a dog", "Fidelity")])
    assert not found.consistent
    assert (found.shown, found.swapped) == (1, -1)


def test_what_cannot_be_read_is_named(oracle):
    with pytest.raises(GenEvalError, match="two integers from 1 to 5"):
        PairJudge(oracle(None, writes=lambda *_: "cannot say")).judge(picture(1), picture(2), "a photo of a dog")


def test_the_request_holds_criterion_and_description(oracle):
    texts = []
    judge = PairJudge(oracle(None, writes=lambda _, text: texts.append(text) or "[Result]: 3 3"))
    judge.judge(picture(1), picture(2), "a photo of a dog", "Count Alignment")
    assert f"[Criterion]: Count Alignment: {ASPECTS['Count Alignment']}\n" in texts[0]
    assert "[Image Description]: a photo of a dog\n" in texts[0]
    judge.judge(picture(1), picture(2), "a photo of a dog", "Mood: how calm it is")
    assert "[Criterion]: Mood: how calm it is\n" in texts[-1]
    with pytest.raises(UsageError, match="aspect: expected one of"):
        judge.judge(picture(1), picture(2), "a photo of a dog", "Mood")
    with pytest.raises(UsageError, match="request: expected a text with"):
        PairJudge(judge.model, request="compare")
    assert set(TASK_ASPECTS) == set(TAGS)


def test_win_rates_rank_a_group(judge):
    images = [picture(value) for value in (0, 60, 120, 240)]
    assert PairReward(judge)(images, ["a photo of a bench"] * 4) == [
        0.0,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        1.0,
    ]
    assert PairReward(judge)(images[:2], ["a photo of a bench", "a photo of a cow"]) == [None, None]


def test_a_large_group_meets_equally_many(oracle):
    requests = []

    def writes(images, text):
        requests.append(images)
        return brighter(images, text)

    reward = PairReward(PairJudge(oracle(None, writes=writes)), opponents=4, seed=3)
    values = reward([picture(value) for value in range(0, 250, 10)], ["a photo of a bench"] * 25)
    assert len(requests) == 2 * 25 * 4 // 2
    assert all(value is not None for value in values)
    met = [int(image.max()) for pair in requests[::2] for image in pair]
    assert {met.count(value) for value in range(0, 250, 10)} == {4}


def test_ties_of_a_base_reward_are_broken_and_nothing_else(judge):
    images = [picture(value) for value in (0, 240, 120, 240)]
    base = {0: 1.0, 240: 1.0, 120: 0.5}
    reward = PairReward(judge, base=lambda images, _: [base[int(image.max())] for image in images], weight=0.1)
    assert reward(images, ["a photo of a bench"] * 4) == pytest.approx([0.95, 1.025, 0.5, 1.025])


def test_unreadable_comparisons_are_counted_and_are_no_zeros(oracle):
    reward = PairReward(PairJudge(oracle(None, writes=lambda *_: "hm")))
    assert reward([picture(1), picture(2)], ["a photo of a bench"] * 2) == [None, None]
    assert reward.unread == 1


def test_it_is_a_part_of_a_composite(judge):
    composite = CompositeReward({"pairs": PairReward(judge)}, {"pairs": 2.0})
    assert composite(images=[picture(0), picture(240)], prompts=["a photo of a bench"] * 2) == [0.0, 2.0]


def test_a_real_model_compares_two_images_left_padded(qwen):
    pairs = [(picture(20), picture(200), text, "Fidelity") for text in ("a dog", "a much longer description of a dog")]
    judge = PairJudge(LocalModel(qwen.model, qwen.processor, max_tokens=6), request="{criterion} {description}")
    found = judge.compare(pairs)
    assert len(found) == 2
    alone = judge.compare(pairs[:1])
    assert found[0].texts == alone[0].texts
    assert found[0].texts[0]
