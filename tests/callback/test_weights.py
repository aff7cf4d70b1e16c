from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel

from geneval_reward.callback.weights import averaged_modules, weights_in_place


class Net(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), value))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("count", torch.tensor(value))


class TorchEMA:
    """The interface of torch_ema's ExponentialMovingAverage."""

    def __init__(self, net: Net, updates: int | None = 3) -> None:
        self.net, self.num_updates = net, updates

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        kept = self.net.weight.detach().clone()
        self.net.weight.data.fill_(9.0)
        try:
            yield
        finally:
            self.net.weight.data.copy_(kept)


class DiffusersEMA:
    """The interface of diffusers.training_utils.EMAModel."""

    def __init__(self, shadow: list[torch.Tensor], steps: int = 3) -> None:
        self.shadow_params, self.optimization_step = shadow, steps

    def store(self, parameters: Any) -> None: ...
    def copy_to(self, parameters: Any) -> None: ...
    def restore(self, parameters: Any) -> None: ...


def averaging(updates: int) -> WeightAveraging:
    callback = WeightAveraging()
    callback._average_model = AveragedModel(Net(9.0), use_buffers=True)
    callback._average_model.n_averaged.fill_(updates)
    return callback


def trainer(*callbacks: Any) -> Any:
    return SimpleNamespace(callbacks=list(callbacks))


def swapped(net: Net, *callbacks: Any) -> list[float]:
    """What is in place inside; afterwards, even if something raises, everything is the very memory from before."""
    pointers = [value.data_ptr() for value in net.state_dict().values()]
    values = [value.clone() for value in net.state_dict().values()]
    inside: list[float] = []

    def look_and_fail() -> None:
        with weights_in_place("ema", trainer(*callbacks), net):
            inside.extend(float(value.flatten()[0]) for value in net.state_dict().values())
            raise KeyError

    with pytest.raises(KeyError):
        look_and_fail()
    assert [value.data_ptr() for value in net.state_dict().values()] == pointers
    assert all(map(torch.equal, values, net.state_dict().values()))
    return inside


def test_current_leaves_all_as_it_is() -> None:
    with weights_in_place("current", trainer(), Net(1.0)):
        pass


def test_weight_averaging_with_its_buffers() -> None:
    callback = averaging(2)
    assert swapped(Net(1.0), callback) == [9.0, 0.0, 9.0]
    assert averaged_modules(trainer(callback), Net(1.0)) == [callback._average_model]
    assert callback._average_model.module.weight.tolist() == [9.0, 9.0]


def test_names_of_torch_compile_are_paired() -> None:
    class Outer(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.net: Any = Net(value)

    compiled, average = Outer(1.0), averaging(2)
    average._average_model = AveragedModel(Outer(9.0), use_buffers=True)
    average._average_model.n_averaged.fill_(2)
    compiled.net = torch.compile(compiled.net, backend="eager")
    assert any("_orig_mod." in name for name, _ in compiled.named_parameters())
    with weights_in_place("ema", trainer(average), compiled):
        assert float(compiled.net.weight.detach()[0]) == 9.0
    assert float(compiled.net.weight.detach()[0]) == 1.0


def test_an_average_that_lacks_a_parameter_is_refused() -> None:
    net = Net(1.0)
    net.added = nn.Parameter(torch.zeros(1))
    with (
        pytest.raises(ValueError, match="every parameter of the module, got none for 'added'"),
        weights_in_place("ema", trainer(averaging(2)), net),
    ):
        pass


def test_swap_contexts_of_others() -> None:
    net = Net(1.0)
    assert swapped(net, TorchEMA(net))[0] == 9.0
    net.ema = TorchEMA(net, updates=None)  # type: ignore[assignment]
    assert swapped(net)[0] == 9.0
    scoped = Net(1.0)
    scoped.ema_scope = TorchEMA(scoped).average_parameters  # type: ignore[assignment]
    scoped.model_ema = SimpleNamespace(num_updates=torch.tensor(4), store=None)  # type: ignore[assignment]
    assert swapped(scoped)[0] == 9.0


@pytest.mark.parametrize("trained_only", [True, False])
def test_diffusers_average(trained_only: bool) -> None:
    net = Net(1.0)
    shadow = [torch.full((2,), 9.0)] if trained_only else [torch.full((2,), 9.0), torch.full((1,), 7.0)]
    net.ema = DiffusersEMA(shadow)  # type: ignore[assignment]
    assert swapped(net)[:2] == [9.0, 0.0 if trained_only else 7.0]


def test_fresh_averages_are_refused() -> None:
    net = Net(1.0)
    scoped = Net(1.0)
    scoped.ema_scope = TorchEMA(scoped).average_parameters  # type: ignore[assignment]
    scoped.model_ema = SimpleNamespace(num_updates=torch.tensor(0))  # type: ignore[assignment]
    for module, callbacks in (
        (net, [averaging(0)]),
        (net, [WeightAveraging()]),
        (net, [TorchEMA(net, updates=0)]),
        (net, [DiffusersEMA([torch.zeros(2)], steps=0)]),
        (scoped, []),
    ):
        with (
            pytest.raises(RuntimeError, match="before its first update"),
            weights_in_place("ema", trainer(*callbacks), module),
        ):
            pass


def test_none_or_several_averages_are_refused() -> None:
    net = Net(1.0)
    for callbacks, message in (([], "got none"), ([averaging(1), TorchEMA(net)], "got WeightAveraging, TorchEMA")):
        with pytest.raises(ValueError, match=message), weights_in_place("ema", trainer(*callbacks), net):
            pass


def test_an_average_of_other_parameters_is_refused() -> None:
    net = Net(1.0)
    with (
        pytest.raises(ValueError, match="got 1 averages for 1 trained of 2 parameters"),
        weights_in_place("ema", trainer(DiffusersEMA([torch.zeros(5)])), net),
    ):
        pass


def test_an_average_of_whole_weights_is_refused_where_weights_are_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(1.0)
    monkeypatch.setattr(nn.Parameter, "full_tensor", None, raising=False)  # what marks a share of a tensor
    average = DiffusersEMA([torch.zeros(2)])
    trainer = SimpleNamespace(callbacks=[average])
    with pytest.raises(
        ValueError, match=r"expected an average with average_parameters or ema_scope .* got DiffusersEMA"
    ):
        weights_in_place("ema", trainer, net)
    with weights_in_place("ema", SimpleNamespace(callbacks=[TorchEMA(net)]), net):
        assert net.weight[0] == 9.0
