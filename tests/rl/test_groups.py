import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from geneval_reward.rl import DistributedKRepeatSampler, check_split


def ranks(world, batch_size, *, data=100, group_size=4, groups=6, seed=0):
    return [
        DistributedKRepeatSampler(
            data,
            group_size=group_size,
            groups=groups,
            batch_size=batch_size,
            num_replicas=world,
            rank=rank,
            seed=seed,
        )
        for rank in range(world)
    ]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([(1, 24), (1, 5), (2, 3), (3, 4), (4, 6), (8, 3)]), st.integers(0, 5))
def test_every_group_is_complete_over_the_ranks(split, epoch):
    world, batch_size = split
    groups = 10 if batch_size == 5 else 6
    samplers = ranks(world, batch_size, groups=groups)
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) == groups * 4 // world
    slots = [slot for sampler in samplers for slot in sampler.slots()]
    assert Counter((s.group, s.repeat) for s in slots) == dict.fromkeys(
        [(g, r) for g in range(groups) for r in range(4)], 1
    )
    assert len({s.prompt for s in slots}) == len({(s.prompt, s.group) for s in slots}) == groups
    assert all(0 <= s.prompt < 100 for s in slots)


def test_world_size_and_batch_size_change_nothing_but_the_place():
    def epoch(world, batch_size):
        return sorted(slot for sampler in ranks(world, batch_size) for slot in sampler.slots(3))

    assert epoch(1, 24) == epoch(2, 3) == epoch(4, 6) == epoch(8, 1)


def test_batches_line_up_over_the_ranks():
    """Batch b of all ranks together is the b-th stretch of the epoch's order, as one rank would draw it."""
    (alone,) = ranks(1, 6)
    pair = ranks(2, 3)
    order = alone.slots()
    for b in range(4):
        together = [slot for sampler in pair for slot in sampler.slots()[3 * b : 3 * b + 3]]
        assert together == order[6 * b : 6 * b + 6]


def test_groups_span_ranks():
    first, second = ranks(2, 12)
    assert {s.group for s in first.slots()} & {s.group for s in second.slots()}


def test_epochs_differ_and_repeat_exactly():
    (sampler,) = ranks(1, 24)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert list(ranks(1, 24)[0]) == first
    assert [slot.prompt for slot in ranks(1, 24)[0].slots(1)] == second
    assert list(ranks(1, 24, seed=5)[0]) != first


def test_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    list(ranks(1, 24)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_with_a_dataloader():
    dataset = [f"prompt {i}" for i in range(100)]
    sampler = DistributedKRepeatSampler(dataset, group_size=4, groups=6, batch_size=8)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    batches = list(loader)
    assert [len(b) for b in batches] == [8, 8, 8]
    flat = [prompt for batch in batches for prompt in batch]
    assert flat == [dataset[slot.prompt] for slot in sampler.slots()]


def test_world_from_torch_distributed(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    sampler = DistributedKRepeatSampler(100, group_size=4, groups=6, batch_size=3)
    assert sampler.slots() == ranks(2, 3)[1].slots()


def test_released_sizes_divide():
    check_split(48, 24, 9, 8)  # DiffusionNFT, 8 GPUs
    check_split(48, 24, 9, 32)  # Flow-GRPO, 32 GPUs


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(2, 30), st.integers(1, 40), st.integers(1, 17))
def test_what_the_message_proposes_works(groups, group_size, batch_size, world):
    if groups * group_size % (world * batch_size) == 0:
        check_split(groups, group_size, batch_size, world)
        return
    with pytest.raises(ValueError, match="expected groups") as raised:
        check_split(groups, group_size, batch_size, world)
    message = str(raised.value).split("choose ")[1]
    if found := re.search(r"batch_size (\d+)", message):
        check_split(groups, group_size, int(found[1]), world)
    if found := re.search(r"num_replicas (\d+)", message):
        check_split(groups, group_size, batch_size, int(found[1]))
    check_split(int(re.search(r"groups (\d+)", message)[1]), group_size, batch_size, world)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 101}, "groups: expected 1 to 100, the number of prompts, got 101"),
        ({"group_size": 0}, "group_size: expected >= 1"),
        ({"rank": 2, "num_replicas": 2}, "rank: expected 0 to 1, got 2"),
        ({"batch_size": 7}, "choose batch_size 6"),
        ({"batch_size": 0}, "batch_size and num_replicas >= 1"),
        ({"num_replicas": 5, "rank": 0}, "num_replicas 6 .*or groups 5"),
        # A group larger than everything that is drawn at once still works if an epoch divides.
        ({"group_size": 24, "groups": 1, "batch_size": 16}, "choose batch_size 12"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        DistributedKRepeatSampler(100, **({"group_size": 4, "groups": 6, "batch_size": 4} | options))


def test_bad_epoch():
    with pytest.raises(ValueError, match="epoch: expected >= 0"):
        ranks(1, 24)[0].set_epoch(-1)
