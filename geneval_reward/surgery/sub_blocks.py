"""The attention and feed-forward parts of a text encoder, found by running it, and how they are skipped and re-used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.surgery.seams import Bypass, Call, Seam, find_blocks, find_seams, has_residual, rerun
from geneval_reward.surgery.swaps import Swaps

ATTENTION: Final = "attention"
FEED_FORWARD: Final = "feed-forward"
_TOKENS: Final = 8


@dataclass(frozen=True)
class SubBlock:
    """A residual branch of a text encoder: attention or feed-forward, with its norms.

    Attributes:
        name: Name of the module that computes the branch.
        kind: `attention` or `feed-forward`.
        seam: That module, and the call of it that was recorded.
        before: Name of the norm in front of it; empty if the norm is inside.
        after: Name of the norm behind it, as in Gemma 2; empty if there is none.
        residual: Whether the module adds its input itself, as in T5.
        carries: Places of outputs that continue no argument and that later modules read: T5's first attention makes the
            position bias of all.
        parameters: Number of parameters that go if it is skipped.
    """

    name: str
    kind: str
    seam: Seam
    before: str
    after: str
    residual: bool
    carries: tuple[int, ...]
    parameters: int


def find_sub_blocks(encoder: nn.Module) -> tuple[SubBlock, ...]:
    """Find the sub-blocks of a text encoder (T5, CLIP, Gemma 2 and what is built like them) in the order in which they run.

    The encoder is run on eight tokens. A sub-block is a child of a block, or an entry of a list in it, that has matrices and
    passes a hidden state on. It is attention if it takes more than that, such as a mask, or if what it returns for a token
    depends on others.

    Raises:
        UsageError: If the encoder is cut already, has no blocks in a list, or a block has no sub-blocks.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> found = find_sub_blocks(load_pipeline().text_encoder)
        >>> len(found), found[0].name, found[0].kind, found[1].kind
        (12, 'encoder.block.0.layer.0', 'attention', 'feed-forward')
    """
    with without_cache(encoder):
        blocks = find_blocks(encoder, lambda: _run(encoder))
        names = [name for block, seam in blocks.items() for name in _inside(block, seam.module)]
        _refuse_cut_encoder(encoder, names)
        seams = find_seams(encoder, names, lambda: _run(encoder))
        read = {id(value) for seam in seams.values() for value in seam.call.arguments.values()}
        found: list[SubBlock] = []
        with torch.no_grad():
            for block in blocks:
                inside = {name: seam for name, seam in seams.items() if name.startswith(f"{block}.")}
                mains = [seam for seam in inside.values() if _has_matrices(seam.module) and seam.continues[0]]
                if not mains:
                    raise UsageError(
                        f"{block}: expected parts with matrices that pass a hidden state on, got none; the text encoder "
                        f"{type(encoder).__name__} cannot be cut into sub-blocks"
                    )
                found += [_describe(encoder, seam, inside, read) for seam in mains]
    return tuple(found)


def skip_and_reuse(
    swaps: Swaps, sub_blocks: Sequence[SubBlock], skip: Sequence[int], reuse: Mapping[int, int] | None = None
) -> None:
    """Take sub-blocks out of a text encoder, or let another one do their work.

    A skipped branch adds nothing to the hidden state. The first attention of T5 goes on computing the position bias for the
    others: only its matrices go. A sub-block that is re-used is called in the place of another with that one's input, and with
    its own norms; it is the same object in both places.

    Args:
        swaps: Where the changes are recorded.
        sub_blocks: What `find_sub_blocks` found in the encoder.
        skip: Numbers of the sub-blocks to take out.
        reuse: For some of them, which kept sub-block of the same kind does the work.

    Raises:
        UsageError: If a number is out of range, comes twice, or a sub-block is re-used that is not there.
    """
    reuse = dict(reuse or {})
    _check(sub_blocks, skip, reuse)
    for number in skip:
        here = sub_blocks[number]
        other = sub_blocks[reuse[number]] if number in reuse else None
        if here.carries:
            for name, part in _matrices(here.seam.module).items():
                swaps.module(f"{here.name}.{name}", ZeroMap(part.out_features))
            if other is not None:
                swaps.module(here.name, Carried(here, other))
        elif other is not None:
            swaps.module(here.name, other.seam.module)
        else:
            unread = range(1, len(here.seam.continues))
            swaps.module(here.name, here.seam.bypass("identity" if here.residual else "zero", unread=unread))
        for side in ("before", "after"):
            name = getattr(here, side)
            if name:
                norm = nn.Identity() if other is None else swaps.model.get_submodule(getattr(other, side))
                swaps.module(name, norm)
    if reuse:
        # A shared attention would append its keys twice to one place of a cache.
        for owner in _with_cache(swaps.model):
            swaps.attribute(owner, "use_cache", False)


class ZeroMap(nn.Module):
    """Stands in for a linear layer: zeros of its output's width, without weights."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, hidden: Tensor) -> Tensor:
        """Zeros `(..., out_features)`."""
        return hidden.new_zeros((*hidden.shape[:-1], self.out_features))


class Carried(nn.Module):
    """Another sub-block in the place of one that makes something for later ones, which goes on being made.

    Args:
        here: The sub-block whose place it is; its matrices are gone already.
        other: The sub-block that does the work.
    """

    def __init__(self, here: SubBlock, other: SubBlock) -> None:
        super().__init__()
        self.source, self.work = here.seam.module, other.seam.module
        self._names = {place: other.seam.continues[place] for place in here.carries}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the other sub-block, with what the first one makes in place of what the caller lacks."""
        made = self.source(*args, **kwargs)
        given = kwargs | {name: made[place] for place, name in self._names.items() if name is not None}
        found = list(self.work(*args, **given))
        for place in self._names:
            found[place] = made[place]
        return tuple(found)


@contextmanager
def without_cache(encoder: nn.Module) -> Iterator[None]:
    """Let a decoder model that serves as a text encoder keep no keys and values while it is looked at."""
    swaps = Swaps(encoder)
    for owner in _with_cache(encoder):
        swaps.attribute(owner, "use_cache", False)
    try:
        yield
    finally:
        swaps.undo()


def _with_cache(encoder: nn.Module) -> list[Any]:
    config = getattr(encoder, "config", None)
    return [config] if getattr(config, "use_cache", False) else []


def _run(encoder: nn.Module) -> None:
    device = next(encoder.parameters()).device
    vocabulary = int(getattr(getattr(encoder, "config", None), "vocab_size", _TOKENS))
    encoder(input_ids=torch.arange(1, _TOKENS + 1, device=device)[None] % vocabulary)


def _refuse_cut_encoder(encoder: nn.Module, names: Sequence[str]) -> None:
    """Refuse an encoder with stand-ins, or with one part in two places: its sub-blocks would have other numbers."""
    parts = [encoder.get_submodule(name) for name in names]
    stand_ins = any(isinstance(part, Bypass | ZeroMap | Carried) for part in encoder.modules())
    if stand_ins or len(set(map(id, parts))) < len(parts):
        raise UsageError(
            f"text encoder: expected a whole {type(encoder).__name__}, got one that a plan has cut already, where the numbers of "
            "sub-blocks would be others; put all changes into one plan"
        )


def _inside(block: str, module: nn.Module) -> Iterator[str]:
    """Names of the children of a block, with the entries of lists in place of the lists."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from (f"{block}.{name}.{index}" for index in range(len(child)))
        else:
            yield f"{block}.{name}"


def _has_matrices(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _matrices(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}


def _describe(encoder: nn.Module, seam: Seam, inside: Mapping[str, Seam], read: set[int]) -> SubBlock:
    residual = has_residual(seam)
    entry, leaving = _first(seam.call), seam.call.outputs[0]
    others = {name: other for name, other in inside.items() if not _has_matrices(other.module)}
    before = "" if residual else next((n for n, s in others.items() if s.call.outputs[0] is entry), "")
    after = "" if residual else next((n for n, s in others.items() if _first(s.call) is leaving), "")
    carries = tuple(
        place
        for place, (name, output) in enumerate(zip(seam.continues, seam.call.outputs, strict=True))
        if name is None and isinstance(output, Tensor) and id(output) in read
    )
    parts = list(_matrices(seam.module).values()) if carries else [seam.module]
    if not parts:
        raise UsageError(f"{seam.name}: expected linear layers in full precision, got none; cut first, then quantise")
    parts += [encoder.get_submodule(name) for name in (before, after) if name]
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    kind = ATTENTION if _mixes_tokens(seam) else FEED_FORWARD
    return SubBlock(seam.name, kind, seam, before, after, residual, carries, parameters)


def _first(call: Call) -> Any:
    return next(value for value in call.arguments.values() if isinstance(value, Tensor))


def _mixes_tokens(seam: Seam) -> bool:
    """Whether a token's output depends on others, or on a mask or places, which matter to attention alone."""
    if len(seam.call.arguments) > 1:
        return True
    name = seam.continues[0]
    assert name is not None
    changed = seam.call.arguments[name].clone()
    changed[:, :-1] += changed.std() + 1
    # The same shapes give the same sums, so a row that depends on itself alone stays equal to the bit.
    return not torch.equal(rerun(seam.module, seam.call, {name: changed})[0][:, -1], seam.call.outputs[0][:, -1])


def _check(sub_blocks: Sequence[SubBlock], skip: Sequence[int], reuse: Mapping[int, int]) -> None:
    last = len(sub_blocks) - 1
    for number in skip:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= last:
            raise UsageError(f"skip: expected numbers of sub-blocks, 0 to {last}, got {number!r}")
    if len(set(skip)) < len(skip):
        raise UsageError(f"skip: expected every sub-block once, got {list(skip)}")
    for number, other in reuse.items():
        if number not in skip:
            raise UsageError(f"reuse: expected places that are skipped, got {number}; put it into skip too")
        if isinstance(other, bool) or not isinstance(other, int) or not 0 <= other <= last or other in skip:
            raise UsageError(f"reuse: expected a sub-block that is kept in the place of {number}, got {other!r}")
        if sub_blocks[number].kind != sub_blocks[other].kind:
            raise UsageError(
                f"reuse: expected a sub-block of the same kind in the place of {number} ({sub_blocks[number].kind}), got "
                f"{other} ({sub_blocks[other].kind})"
            )
