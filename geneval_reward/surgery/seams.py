"""Where a model can be cut: its blocks, and which argument each of their outputs continues, found by running it once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        arguments: Its arguments by the parameter names of `forward`; those beyond are in `args` and `kwargs` as they came.
        args: Positional arguments.
        kwargs: Named arguments.
        output: What it returned.
    """

    arguments: Mapping[str, Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The outputs as a tuple, also where the module returned one bare tensor."""
        return tuple(self.output) if isinstance(self.output, tuple | list) else (self.output,)


@dataclass(frozen=True)
class Seam:
    """A module that can be taken out, because each output continues one of its arguments.

    Attributes:
        name: Its name in the model, such as `transformer_blocks.3` or `transformer_blocks.3.ff`.
        module: The module.
        call: The call that was recorded.
        continues: For each output the parameter whose value it continues: the one of the same shape, and of several the one by
            which the output grows if it is doubled. None for outputs that are not tensors or continue nothing.
    """

    name: str
    module: nn.Module
    call: Call
    continues: tuple[str | None, ...]

    def bypass(self, how: Literal["identity", "zero"] = "identity", *, unread: Collection[int] = ()) -> Bypass:
        """A module without weights for its place: it returns what came in, or zeros.

        Args:
            how: `identity` or `zero`.
            unread: Outputs that nobody reads, by place; they become None.

        Raises:
            UsageError: If an output continues nothing, so that nothing can stand in for it.
        """
        return Bypass(self, how, unread=unread)


class Bypass(nn.Module):
    """Stands in for a module: every output is the argument that it continues, or zeros of its shape.

    Args:
        seam: The module that it replaces.
        how: `identity` or `zero`.
        unread: Outputs that nobody reads, by place; they become None.

    Raises:
        UsageError: If the module has an output that is a tensor and continues no argument.
    """

    def __init__(
        self, seam: Seam, how: Literal["identity", "zero"] = "identity", *, unread: Collection[int] = ()
    ) -> None:
        super().__init__()
        if how not in ("identity", "zero"):
            raise UsageError(f"how: expected identity or zero, got {how!r}")
        for place, (name, output) in enumerate(zip(seam.continues, seam.call.outputs, strict=True)):
            if name is None and isinstance(output, Tensor) and place not in unread:
                raise UsageError(
                    f"{seam.name}: expected a module whose outputs have the shapes of its arguments, got an output "
                    f"{tuple(output.shape)} that continues none; it cannot be taken out"
                )
        self.how = how
        self.continues = seam.continues
        self.bare = not isinstance(seam.call.output, tuple | list)
        self.signature = signature_of(seam.module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take the original's arguments and return outputs of the original's form."""
        given = _arguments(self.signature, args, kwargs)
        found = [None if name is None else given[name] for name in self.continues]
        if self.how == "zero":
            found = [None if value is None else torch.zeros_like(value) for value in found]
        return found[0] if self.bare else tuple(found)


@contextmanager
def recorded_calls(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Record the first call of each module that runs inside the `with` block.

    Args:
        modules: Modules by name.

    Returns:
        A dictionary in the order in which the modules returned; modules that did not run are missing.
    """
    calls: dict[str, Call] = {}
    hooks = [module.register_forward_hook(_keep(name, calls), with_kwargs=True) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def signature_of(module: nn.Module) -> inspect.Signature:
    """The parameters of `forward`; a stand-in has those of what it replaces, in an attribute `signature`."""
    given = getattr(module, "signature", None)
    return given if isinstance(given, inspect.Signature) else inspect.signature(module.forward)


def run_once(pipeline: Any, **call: Any) -> None:
    """Run one sampling step of a pipeline on a small latent, without decoding an image.

    Args:
        pipeline: A diffusers pipeline.
        call: Further arguments.
    """
    known = inspect.signature(pipeline.__call__).parameters
    small = {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": None}
    if factor := getattr(pipeline, "vae_scale_factor", None):
        side = -(-8 * factor // 32) * 32  # some pipelines want multiples of 32
        small |= {"height": side, "width": side}
    call = {name: value for name, value in small.items() if name in known} | call
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            pipeline(
                **{"prompt": "a photo of a red clock", "num_inference_steps": 1, "output_type": "latent"}
                | {"generator": generator}
                | call
            )
    finally:
        pipeline.set_progress_bar_config(**bar)


def find_blocks(model: nn.Module, run: Callable[[], Any]) -> dict[str, Seam]:
    """Find the blocks of a model: the entries of its lists of modules through which a hidden state passes.

    Args:
        model: A transformer.
        run: Runs the model in some way, such as `lambda: run_once(pipeline)`.

    Returns:
        Blocks by name, list after list. A list inside a block is no list of blocks.

    Raises:
        UsageError: If there are none.
    """
    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    names = [f"{name}.{index}" for name in outer for index in range(len(lists[name]))]
    seams = find_seams(model, names, run)
    found: dict[str, Seam] = {}
    for name in outer:
        inside = [f"{name}.{index}" for index in range(len(lists[name]))]
        if all(block in seams and any(seams[block].continues) for block in inside):
            found |= {block: seams[block] for block in inside}
    if not found:
        raise UsageError(
            f"model: expected a transformer whose blocks stand in a list, got {type(model).__name__}, which has none that runs"
        )
    return found


def find_seams(model: nn.Module, names: Iterable[str], run: Callable[[], Any]) -> dict[str, Seam]:
    """Find out which argument each output of some modules continues.

    Args:
        model: The model.
        names: Names of its modules.
        run: Runs the model in some way.

    Returns:
        The modules that ran, by name.
    """
    modules = {name: model.get_submodule(name) for name in names}
    with recorded_calls(modules) as calls, torch.no_grad():
        run()
    with torch.no_grad():
        return {
            name: Seam(name, module, calls[name], _continues(module, calls[name]))
            for name, module in modules.items()
            if name in calls
        }


def _continues(module: nn.Module, call: Call) -> tuple[str | None, ...]:
    found: list[str | None] = []
    for place, output in enumerate(call.outputs):
        fits = [
            name
            for name, value in call.arguments.items()
            if isinstance(value, Tensor) and isinstance(output, Tensor) and value.shape == output.shape
        ]
        if len(fits) > 1:
            fits.sort(key=lambda name: _distance(module, call, name, place))
        found.append(fits[0] if fits else None)
    return tuple(found)


def _distance(module: nn.Module, call: Call, name: str, place: int) -> float:
    """How far an output is from growing by an argument that is doubled.

    A residual block adds to its input what it computes from a norm of it, and doubling the input leaves the norm as it is.
    """
    value = call.arguments[name]
    grown = rerun(module, call, {name: value * 2})[place].float() - call.outputs[place].float()
    return float((grown - value.float()).norm() / value.float().norm().clamp_min(1e-30))


def has_residual(seam: Seam) -> bool:
    """Whether the first output of a module is the argument that it continues with something added, as of a whole block."""
    name = seam.continues[0]
    return name is not None and _distance(seam.module, seam.call, name, 0) < 0.5


def rerun(module: nn.Module, call: Call, changed: Mapping[str, Any]) -> tuple[Any, ...]:
    """Run a module as in a recorded call, with some arguments changed, and return its outputs as a tuple."""
    bound = signature_of(module).bind(*call.args, **call.kwargs)
    for name, value in changed.items():
        if name in bound.arguments:
            bound.arguments[name] = value
        else:
            bound.arguments[_keywords(bound.signature)][name] = value
    output = module(*bound.args, **bound.kwargs)
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def _keep(name: str, calls: dict[str, Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.setdefault(name, Call(_arguments(signature_of(module), args, kwargs), args, dict(kwargs), output))

    return hook


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = signature.bind(*args, **kwargs).arguments
    further: dict[str, Any] = given.pop(_keywords(signature), {})
    return given | further


def _keywords(signature: inspect.Signature) -> str:
    """Name of the parameter that takes all other keywords; empty if there is none."""
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    return kinds.get(inspect.Parameter.VAR_KEYWORD, "")
