from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from geneval_reward.prompts import official_suite
from geneval_reward.rl import Slot
from geneval_reward.train import PromptGroups, RolloutBatch, check_sampler


def test_numbers_draw_training_prompts_in_all_or_per_task():
    suite = {spec.prompt for spec in official_suite()}
    for prompts in (12, "12"):
        specs = PromptGroups(prompts).specs
        assert len(specs) == 12
        assert not suite & {spec.prompt for spec in specs}
    per_task = PromptGroups("2/task").specs
    assert len(per_task) == 2 * len({spec.tag for spec in per_task})
    assert len(PromptGroups("suite").specs) == 553
    pocket = Counter(spec.tag for spec in PromptGroups("pocket").specs)
    assert pocket.total() == 4096
    assert pocket["single_object"] == 0
    assert pocket["color_attr"] / pocket["counting"] == pytest.approx(2, rel=0.1)
    assert pocket["position"] / pocket["colors"] == pytest.approx(3, rel=0.2)


def test_one_batch_per_epoch_knows_its_groups():
    loader = PromptGroups(20, groups=3, group_size=4, batch_size=5, seed=1).train_dataloader
    with pytest.raises(ValueError, match="choose batch_size"):
        loader()
    data = PromptGroups(20, groups=3, group_size=4, batch_size=4, seed=1)
    [batch] = data.train_dataloader()
    assert [data.specs[slot.prompt] for slot in batch.slots] == batch.specs
    parts = list(batch.split())
    assert [len(specs) for specs, _ in parts] == [4, 4, 4]
    assert [slot for _, slots in parts for slot in slots] == batch.slots


def test_noise_depends_on_seed_epoch_group_and_repeat_alone():
    def noise(epoch, slot, seed=0):
        [generator] = RolloutBatch([], [], epoch, 1, seed).generators([slot])
        return torch.randn(3, generator=generator).tolist()

    first = noise(0, Slot(5, 1, 2))
    assert first == noise(0, Slot(7, 1, 2))  # the prompt's number does not matter
    assert (
        len({tuple(n) for n in (first, noise(1, Slot(5, 1, 2)), noise(0, Slot(5, 2, 2)), noise(0, Slot(5, 1, 3)))}) == 4
    )
    assert first != noise(0, Slot(5, 1, 2), seed=1)


def test_another_sampler_is_refused():
    check_sampler(
        SimpleNamespace(train_dataloader=PromptGroups(20, groups=2, group_size=2, batch_size=2).train_dataloader())
    )
    with pytest.raises(ValueError, match="expected a DistributedKRepeatSampler, got NoneType; use PromptGroups"):
        check_sampler(SimpleNamespace(train_dataloader=object()))


def test_groups_of_one_are_refused_unless_the_method_takes_them():
    trainer = SimpleNamespace(
        train_dataloader=PromptGroups(20, groups=2, group_size=1, batch_size=2).train_dataloader()
    )
    check_sampler(trainer, group_size=1)
    with pytest.raises(ValueError, match="group_size: expected >= 2, got 1; a sample is judged against its group"):
        check_sampler(trainer)
