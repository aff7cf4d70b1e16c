"""What can be said without a process group; tests/callback/test_sharded.py has real shards."""

import pytest
import torch
from torch import nn

from geneval_reward.support.shards import call_through_root, holds_shards, parts_under_fsdp1, reshard


def test_ordinary_modules_hold_no_shards():
    module = nn.Sequential(nn.Linear(2, 2))
    assert not holds_shards([module])
    assert parts_under_fsdp1([module]) == set()
    reshard([module])


def test_a_call_goes_through_an_fsdp1_wrapper_and_leaves_no_trace(monkeypatch):
    import torch.distributed.fsdp as fsdp

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.passes = module, 0

        def forward(self, *args, **kwargs):
            self.passes += 1
            return self.module(*args, **kwargs)

    monkeypatch.setattr(fsdp, "FullyShardedDataParallel", Wrapper)
    module = nn.Linear(2, 2)
    root = Wrapper(module)
    assert holds_shards([root])
    assert parts_under_fsdp1([root]) == {id(root), id(module)}
    assert call_through_root(root, module, lambda a, b: a + b, 1, b=2) == 3
    assert root.passes == 1
    x = torch.ones(1, 2)
    assert torch.equal(call_through_root(root, module, lambda: module(x)), module(x))
    with pytest.raises(ZeroDivisionError):
        call_through_root(root, module, lambda: 1 / 0)
    assert "forward" not in vars(module)
    assert call_through_root(module, module, lambda: 4) == 4
    assert root.passes == 3
