"""Skrr (arXiv 2502.08690): skip sub-blocks of a text encoder and re-use neighbours in their place, without any training.

    python recipes/skrr.py --model pocket --out runs/skrr
    python recipes/skrr.py --model pocket --level 0.405 --beam 1 --out runs/greedy
    geneval-reward surgery table pocket --suite pocket --row runs/skrr/skrr_40.json --row runs/skrr/truncation_40.json

This file is the whole method, in the order of the algorithm. What is not the method is called by name:
`geneval_reward.surgery` (sub-blocks, plans that are saved, applied and undone). A text encoder has an attention and a
feed-forward sub-block per block; removing one means that its residual branch adds nothing.

    D(plan) = MSE(f, f') over calibration prompts + MSE(f0, f0')         `Discrepancy`; f is what the denoiser's first block
                                                                         receives, f0 that for the empty prompt
    skip     beam search: every one of the 3 best sets is extended       `beam_search`
             by every sub-block that is left; the 3 smallest D stay
    cut      the best order is cut where the sparsity is reached         `cut`
    re-use   for every skipped place, in order: the nearest kept         `choose_reuse`
             sub-block of its kind on the left, on the right, or none

| | paper (no code was found) | here, and why |
|---|---|---|
| f | the denoiser's projection of the encoder's output | the arguments of the denoiser's first block that depend on the prompt: \
behind the projection in every family; where a pooled state is used, also the time embedding that holds it |
| D | MSE, because the null prompt's norm can grow a hundredfold while the cosine looks fine | the same |
| calibration | 1000 long captions of CC12M, 150 to 250 tokens | `--calibration`, a prompt per line; `pocket`: 200 training \
prompts. Prompts of the suites are refused |
| beam, stop | 3; stops at 24 of T5-XXL's 48 sub-blocks: 2532 evaluations of D | 3; stops at the highest level |
| sparsity | removed / all parameters of the T5 encoder with its embedding | the same, printed beside bytes |
| re-use | once, in the order of the skip list, with earlier choices in place | the same; on equal D none |
| saving | not said | the plan, not the weights: a shared sub-block would be stored twice |
| first attention of T5 | not said | keeps the position bias that all others use, when skipped and when replaced |
| baselines | ShortGPT, LaCo, FinerCut | truncation (last blocks first), greedy (beam 1: FinerCut's search with this D), \
random order (5 draws), ShortGPT (whole blocks by cosine); quantised weights beside them in the table |

Skrr saves memory only: a text encoder is under 1 % of an image's operations. Needs the extra `diffusers`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import random
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geneval_reward.errors import UsageError
from geneval_reward.generate.load import choose_device, load_pipeline
from geneval_reward.pocket import iter_pocket_prompts, pocket_suite
from geneval_reward.prompts import official_suite
from geneval_reward.support.files import read_lines
from geneval_reward.surgery import TextEncoderPlan, find_part, fingerprint, parameter_share, save_plan
from geneval_reward.surgery.seams import find_blocks, run_once
from geneval_reward.surgery.sub_blocks import SubBlock, find_sub_blocks, skip_and_reuse
from geneval_reward.surgery.swaps import Swaps

LEVELS = (0.243, 0.324, 0.405)
"""Sparsities of the published tables: six, eight and ten whole blocks of T5-XXL, its embedding counted."""

Measure = Callable[[Sequence[int], dict[int, int]], float]
"""The discrepancy of skipping some sub-blocks and re-using others in their place."""


class Discrepancy:
    """D of a plan: how far the text features move, over calibration prompts and over the empty prompt.

    Args:
        pipeline: The dense pipeline.
        part: The text encoder that is cut.
        prompts: Calibration prompts.
        batch_size: Prompts per pass.
        call: Further arguments of the pipeline's call.

    Attributes:
        evaluations: How often D was computed.
    """

    def __init__(
        self,
        pipeline: Any,
        part: str,
        prompts: Sequence[str],
        *,
        batch_size: int = 200,
        call: dict[str, Any] | None = None,
    ) -> None:
        self.pipeline, self.encoder = pipeline, find_part(pipeline, part)
        self.sub_blocks = find_sub_blocks(self.encoder)
        known = inspect.signature(pipeline.__call__).parameters
        # Without guidance the empty prompt does not come along; Sana puts an instruction in front of every prompt.
        own = {"guidance_scale": 1.0} if "guidance_scale" in known else {}
        if "complex_human_instruction" in known:
            own["complex_human_instruction"] = known["complex_human_instruction"].default
        self.call = own | dict(call or {})
        self.first = next(
            iter(find_blocks(pipeline.transformer, lambda: run_once(pipeline, **self.call)).values())
        ).module
        self.batches = [list(prompts[start : start + batch_size]) for start in range(0, len(prompts), batch_size)]
        # Which arguments depend on the prompt: the image's noise and the time do not.
        one, other = self._features([prompts[0]]), self._features([""])
        self.names = [
            name for name in one if one[name].shape != other[name].shape or not torch.equal(one[name], other[name])
        ]
        if not self.names:
            raise UsageError("pipeline: expected a denoiser whose first block receives the text, got one that does not")
        self.dense, self.dense_null = [self._text(batch) for batch in self.batches], self._text([""])
        self.evaluations = 0

    def __call__(self, skip: Sequence[int], reuse: dict[int, int] | None = None) -> float:
        """D of skipping sub-blocks, with re-use."""
        self.evaluations += 1
        swaps = Swaps(self.encoder)
        try:
            skip_and_reuse(swaps, self.sub_blocks, skip, reuse)
            found = [self._text(batch) for batch in self.batches]
            null = _mse(self._text([""]), self.dense_null)
        finally:
            swaps.undo()
        count = sum(map(len, self.batches))
        return sum(len(b) * _mse(f, d) for b, f, d in zip(self.batches, found, self.dense, strict=True)) / count + null

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        found = self._features(prompts)
        return {name: found[name] for name in self.names}

    def _features(self, prompts: list[str]) -> dict[str, Tensor]:
        """What the first block receives; the pipeline is stopped there."""
        found: dict[str, Tensor] = {}

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = {f"argument {place}": value for place, value in enumerate(args)} | kwargs
            found.update({name: v for name, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()})
            raise _FirstBlockReached

        hook = self.first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            run_once(self.pipeline, prompt=prompts, **self.call)
        except _FirstBlockReached:
            pass
        finally:
            hook.remove()
        return found


class _FirstBlockReached(Exception):  # noqa: N818
    """Ends a call of the pipeline before the first block computes anything."""


def _mse(found: dict[str, Tensor], dense: dict[str, Tensor]) -> float:
    return sum(float((found[name].float() - dense[name].float()).square().mean()) for name in dense)


def beam_search(measure: Measure, count: int, reached: Callable[[Sequence[int]], bool], beam: int = 3) -> list[int]:
    """Order in which sub-blocks are skipped: the best of `beam` orders that grow side by side.

    Args:
        measure: D of a set of skipped sub-blocks.
        count: Number of sub-blocks.
        reached: Whether an order is long enough.
        beam: Orders that stay after each step; 1 is greedy.
    """
    orders: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    while not reached(orders[0][1]):
        sets = {
            frozenset((*order, one)): (*order, one) for _, order in orders for one in range(count) if one not in order
        }
        orders = sorted((measure(order, {}), order) for order in sets.values())[:beam]
    return list(orders[0][1])


def choose_reuse(measure: Measure, sub_blocks: Sequence[SubBlock], skip: Sequence[int]) -> dict[int, int]:
    """What does the work in skipped places, if anything: the nearest kept sub-blocks of the same kind are tried."""
    reuse: dict[int, int] = {}
    best = measure(skip, reuse)
    for place in skip:
        kept = [i for i, one in enumerate(sub_blocks) if i not in skip and one.kind == sub_blocks[place].kind]
        left, right = [i for i in kept if i < place][-1:], [i for i in kept if i > place][:1]
        chosen: dict[int, int] = {}
        for other in left + right:
            found = measure(skip, reuse | {place: other})
            if found < best:
                best, chosen = found, {place: other}
        reuse |= chosen
    return reuse


def cut(order: Sequence[int], reached: Callable[[Sequence[int]], bool]) -> list[int]:
    """The shortest beginning of an order that reaches the sparsity."""
    return next(list(order[:n]) for n in range(len(order) + 1) if reached(order[:n]))


def last_blocks_first(sub_blocks: Sequence[SubBlock]) -> list[int]:
    """Plain truncation."""
    return list(reversed(range(len(sub_blocks))))


def random_order(sub_blocks: Sequence[SubBlock], seed: int) -> list[int]:
    """The control that knows nothing."""
    return random.Random(seed).sample(range(len(sub_blocks)), len(sub_blocks))


def shortgpt_order(
    pipeline: Any, part: str, sub_blocks: Sequence[SubBlock], prompts: list[str], **call: Any
) -> list[int]:
    """ShortGPT's block influence (arXiv 2403.03853): whole blocks, the one that turns its input least first.

    Influence is 1 - cosine between what enters and what leaves a block, averaged over tokens.
    """
    blocks: dict[str, list[int]] = {}
    for number, one in enumerate(sub_blocks):
        blocks.setdefault(_block_name(one.name), []).append(number)
    encoder, influence = find_part(pipeline, part), dict.fromkeys(blocks, 0.0)

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            influence[name] += float(1 - nn.functional.cosine_similarity(before.float(), after.float(), dim=-1).mean())

        return hook

    hooks = [encoder.get_submodule(name).register_forward_hook(note(name), with_kwargs=True) for name in blocks]
    try:
        run_once(pipeline, prompt=prompts, **call)
    finally:
        for hook in hooks:
            hook.remove()
    return [number for name in sorted(blocks, key=lambda name: influence[name]) for number in blocks[name]]


def _block_name(name: str) -> str:
    """`encoder.block.3` of `encoder.block.3.layer.0`, `layers.2` of `layers.2.mlp`."""
    found = re.match(r"(.*?\.\d+)\.", f"{name}.")
    assert found is not None
    return found[1]


def read_calibration(path: Path | None, model: str, count: int, suite: Iterable[str] = ()) -> list[str]:
    """Prompts to search with, which are never those that the result is measured by.

    Args:
        path: A text file with one prompt per line; None takes training prompts of the pocket world for `pocket`.
        model: Name of the model.
        count: Most prompts to take.
        suite: Further prompts that must not be among them.

    Raises:
        UsageError: If there is no file and the model is not `pocket`, or the file has a prompt of a suite or none at all.
    """
    if path is None:
        if model != "pocket":
            raise UsageError(
                f"--calibration: expected a file with one prompt per line for the model {model!r}, got none"
            )
        mix = {"two_object": 1, "counting": 1, "colors": 1, "position": 1, "color_attr": 1}
        drawn = dict.fromkeys(spec.prompt for spec in islice(iter_pocket_prompts(0, mix), 20 * count))
        return list(drawn)[:count]
    asked = {_plain(spec.prompt): spec.prompt for spec in (*official_suite(), *pocket_suite())}
    asked |= {_plain(text): text for text in suite}
    prompts = []
    for number, line in read_lines(path):
        if _plain(line) in asked:
            raise UsageError(
                f"{path} line {number}: expected prompts that are not in the suite, got {asked[_plain(line)]!r}; a plan that "
                "was chosen on the prompts that measure it says nothing about others"
            )
        prompts.append(line.strip())
    if not prompts:
        raise UsageError(f"{path}: expected one prompt per line, got none")
    return prompts[:count]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


def make_plans(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    part: str = "text_encoder",
    levels: Sequence[float] = LEVELS,
    beam: int = 3,
    draws: int = 5,
    batch_size: int = 200,
    call: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, TextEncoderPlan]:
    """Make Skrr's plans and those that it must beat, by name: `skrr_40`, `skip_40` (without re-use), `greedy_40`, ...

    Raises:
        UsageError: If a level is higher than all sub-blocks together.
    """
    measure = Discrepancy(pipeline, part, prompts, batch_size=batch_size, call=call)
    sub_blocks, model = measure.sub_blocks, fingerprint(measure.encoder)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    most = parameter_share(measure.encoder, sub_blocks, range(len(sub_blocks)))
    for level in levels:
        if not 0 < level <= most:
            raise UsageError(f"--level: expected a share of the parameters above 0 and up to {most:.3f}, got {level}")

    def reaches(level: float) -> Callable[[Sequence[int]], bool]:
        return lambda skip: parameter_share(measure.encoder, sub_blocks, skip) >= level

    def plan(skip: Sequence[int], reuse: dict[int, int] | None = None) -> TextEncoderPlan:
        return TextEncoderPlan(
            part=part,
            model=model,
            skip=tuple(skip),
            reuse=tuple((reuse or {}).items()),
            sparsity=parameter_share(measure.encoder, sub_blocks, skip),
            discrepancy=measure(skip, reuse),
            calibration=digest,
        )

    highest = reaches(max(levels))
    orders = {"skip": beam_search(measure, len(sub_blocks), highest, beam)}
    log(f"beam {beam}: order {orders['skip']}, {measure.evaluations} evaluations of D")
    orders["greedy"] = beam_search(measure, len(sub_blocks), highest, 1)
    log(f"greedy: order {orders['greedy']}")
    orders["truncation"] = last_blocks_first(sub_blocks)
    orders["shortgpt"] = shortgpt_order(pipeline, part, sub_blocks, list(prompts[:batch_size]), **measure.call)
    log(f"ShortGPT: order {orders['shortgpt']}")
    orders |= {f"random{seed}": random_order(sub_blocks, seed) for seed in range(draws)}
    plans: dict[str, TextEncoderPlan] = {}
    for level in levels:
        for name, order in orders.items():
            plans[f"{name}_{round(100 * level)}"] = plan(cut(order, reaches(level)))
        skip = plans[f"skip_{round(100 * level)}"].skip
        reuse = choose_reuse(measure, sub_blocks, skip)
        plans[f"skrr_{round(100 * level)}"] = plan(skip, reuse)
        log(f"level {level}: skip {list(skip)}, re-use {reuse}")
    return plans


def main() -> None:
    """Search, and write one file per plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="what `geneval-reward generate` takes")
    parser.add_argument("--part", default="text_encoder", help="the text encoder to cut, such as text_encoder_3 of SD3")
    parser.add_argument("--calibration", type=Path, help="one prompt per line; long descriptive captions")
    parser.add_argument("--prompts", type=int, default=200, help="calibration prompts to take")
    parser.add_argument("--level", type=float, action="append", help="share of the encoder's parameters; repeatable")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--precision", default="auto", help="what the pipeline computes in")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    prompts = read_calibration(given.calibration, given.model, given.prompts)
    pipeline = load_pipeline(given.model, given.precision)
    pipeline = pipeline.to(choose_device(given.device))
    given.out.mkdir(parents=True, exist_ok=True)
    plans = make_plans(
        pipeline,
        prompts,
        part=given.part,
        levels=given.level or LEVELS,
        beam=given.beam,
        batch_size=given.batch_size,
    )
    for name, plan in plans.items():
        save_plan(plan, given.out / f"{name}.json")
        with plan.apply(pipeline) as applied:
            print(
                f"{name}: sparsity {plan.sparsity:.1%}, D {plan.discrepancy:.5f}, {applied.removed_bytes:,} bytes less"
            )


if __name__ == "__main__":
    main()
