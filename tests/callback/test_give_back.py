from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geneval_reward.callback.give_back import give_back


@pytest.fixture(autouse=True)
def _flags_as_they_were() -> Iterator[None]:
    with give_back([]), torch.enable_grad():
        yield


def draw() -> tuple[Any, ...]:
    return random.random(), float(np.random.rand()), torch.rand(2).tolist()  # noqa: NPY002  what user code draws from


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())


@pytest.mark.parametrize("fails", [False, True])
def test_random_generators(fails: bool) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    run(fails, [], draw)
    assert draw() == expected


FLAGS: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    ("grad", torch.is_grad_enabled, lambda: torch.set_grad_enabled(True)),
    ("dtype", torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    ("autocast", lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
    ("autocast dtype", lambda: torch.get_autocast_dtype("cpu"), lambda: torch.set_autocast_dtype("cpu", torch.float16)),
    ("autocast cache", torch.is_autocast_cache_enabled, lambda: torch.set_autocast_cache_enabled(False)),
    ("cudnn", lambda: torch.backends.cudnn.benchmark, lambda: setattr(torch.backends.cudnn, "benchmark", True)),
    ("cudnn off", lambda: torch.backends.cudnn.enabled, lambda: setattr(torch.backends.cudnn, "enabled", False)),
    (
        "cudnn exact",
        lambda: torch.backends.cudnn.deterministic,
        lambda: setattr(torch.backends.cudnn, "deterministic", True),
    ),
    (
        "tf32",
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    ),
    ("cudnn tf32", lambda: torch.backends.cudnn.allow_tf32, lambda: setattr(torch.backends.cudnn, "allow_tf32", False)),
    ("matmul", torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("high")),
    (
        "deterministic",
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("read", "change"), [flag[1:] for flag in FLAGS], ids=[flag[0] for flag in FLAGS])
def test_flags(read: Callable[[], Any], change: Callable[[], Any], fails: bool) -> None:
    before = read()
    run(fails, [], change)
    assert read() == before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_tf32_set_in_the_newer_way() -> None:
    def change() -> None:
        torch.backends.cudnn.conv.fp32_precision = "ieee"

    before = torch.backends.cudnn.allow_tf32
    run(False, [], change)
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("fails", [False, True])
def test_modules(fails: bool) -> None:
    net = model()
    net[2].eval()
    net[0].bias.requires_grad_(False)
    modes = [part.training for part in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    pointers = [parameter.data_ptr() for parameter in net.parameters()]

    def disturb() -> None:
        net.train()
        net(torch.randn(8, 2))  # moves the batch norm's averages
        net.eval()
        net.requires_grad_(False)
        net[0].bias.requires_grad_(True)
        net.to(torch.float64)

    run(fails, [net, net[0]], disturb)
    assert [part.training for part in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == [True, False, True, True]
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers
    for name, value in net.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])


def test_a_whole_module_on_another_device_comes_back() -> None:
    net = model()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    with give_back([net]):
        net.to("meta")
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(buffer.device.type == "cpu" for buffer in net.buffers())


def test_what_a_module_caches_meanwhile_can_be_trained_with() -> None:
    """Validation hooks run in inference mode, whose tensors autograd refuses for ever."""
    net = nn.Linear(2, 2)
    with torch.inference_mode():
        with give_back([net]):
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            cache = torch.ones(1, 2) * 2
        assert torch.is_inference_mode_enabled()
    (net(cache) ** 2).sum().backward()
    assert net.weight.grad is not None


def test_casts_cached_by_autocast_do_not_cut_the_next_graph() -> None:
    net = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with give_back([net]):
            net(torch.ones(1, 2))
        net(torch.ones(1, 2)).sum().backward()
    assert net.weight.grad is not None


def run(fails: bool, modules: list[nn.Module], change: Callable[[], Any]) -> None:
    try:
        with give_back(modules):
            change()
            if fails:
                raise KeyError("sampling failed")
    except KeyError:
        assert fails
