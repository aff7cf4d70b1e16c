"""HierarchicalPrune (arXiv 2508.04663, AAAI 2026), for Stable Diffusion 3 and 3.5, FLUX and the pocket model.

    python recipes/hierarchical_prune.py rank --out runs/prune/contributions.jsonl         # goes on where it stopped
    python recipes/hierarchical_prune.py choose runs/prune/contributions.jsonl --budget 0.25 --out runs/prune/plan.json
    python recipes/hierarchical_prune.py fit --config configs/prune_pocket.yaml

This file is the whole method, in the order of the algorithm. What is not the method is called by name: `geneval_reward.surgery`
(plans that take out blocks and put them back, scores on fixed noise, quantisation) and `geneval_reward.train` (a pipeline as a
flow, captions). The method takes four steps:

    dP(u)   = score of the model - score without unit u       `measure_contributions`; a unit is a block or a part of one
    cut     : the units with the smallest dP, up to a budget  `choose_cut`; what comes before the first of them is frozen
    distil  : |v - v_dense|^2 + 1e-4 sum |h_b - h_b,dense|^2  `Distillation`; h_b is the output of each block that is trained;
              block b learns at rate min(1, floor / dP(b))    the less, the more its removal costs
    INT4    : nf4 of the linear layers                        `surgery.quantize`, after training

| | paper (by notes of others; its body was not read) | released code (SamsungLabs, d960264) | here, and why |
|---|---|---|---|
| score | change on a calibration set | HPSv2 after removal, one seed | GenEval, paired by image, with an interval |
| calibration prompts | - | the benchmark's own | training prompts: none of them is in the suite that reports |
| sign | absolute value | sorts by the score after removal | `signed`, as released; or `absolute` |
| position | -abs(dP) e^((i-n)/n), highest first | none, in a range given by hand | none; or `late_first`: loss e^((n-i)/n) |
| part taken out | - | hands on its input, gate stays | zero branch, which does less harm; or `identity`, as released |
| modulated norm | - | norm kept, shift and scale 0, gates 1 | the same |
| frozen | early blocks | all until the first pruned block | as released |
| update of a block | scaled by 1/dP | all or nothing | the learning rate, as AdamW does not see a gradient's scale; capped at 1 |
| feature loss | in the sum | 1e-4, image and text stream | as released |
| training | 615 A100 hours and more | 64,000 steps of 64 images, 1024 px | a few hundred steps |
| INT4 | after training | every linear layer, nf4 | the same, as a plan of its own |

The position factor as it is noted contradicts its purpose. It grows with the depth i, so of two units with the same dP the later
has the lower score, and "highest first" takes out the early one, while the paper wants to keep it. `published` does as noted.

Needs the extras `lightning` and `diffusers`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor

from geneval_reward import GenEvalScorer, surgery, train
from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.prompts import TAGS, PromptSpec, training_prompts
from geneval_reward.results.notation import points_with_interval
from geneval_reward.support.files import read_lines
from geneval_reward.surgery.scores import FixedNoise

# 1. Contributions.


@dataclass(frozen=True)
class Contribution:
    """What a unit contributes to the score.

    Attributes:
        unit: Its name in the model.
        block: The block that it is a part of; None for a block.
        how: What stood in for it: `zero` or `identity`.
        place: Index of its block in the order in which they run.
        parameters: Number of its weights.
        dp: Score of the model minus score without the unit.
        low: Lower end of the 95 % interval of `dp`, paired by image.
        high: Upper end.
    """

    unit: str
    block: str | None
    how: str
    place: int
    parameters: int
    dp: float
    low: float
    high: float


def measure_contributions(
    pipeline: Any, score: FixedNoise, path: Path, *, part: str = "transformer", hows: Sequence[str] = ("zero",)
) -> list[Contribution]:
    """Score the model without each of its units in turn, on the same prompts and noise.

    Args:
        pipeline: The model.
        score: Prompts, noise and what judges.
        path: A file of JSON lines, one per unit; units that it holds are not scored again.
        part: The component that is cut.
        hows: What stands in for parts of blocks.

    Returns:
        All units, the cheapest first.
    """
    units = surgery.removable(pipeline, part)
    model = surgery.fingerprint(getattr(pipeline, part))
    known = {
        tuple(line["key"]): line["scores"]
        for _, text in (read_lines(path) if path.exists() else [])
        for line in [json.loads(text)]
    }

    def scores(unit: str, how: str) -> list[float]:
        key = (model, score.digest, unit, how)
        if key not in known:
            removed = (unit,) if unit else ()
            with surgery.BlockPlan(part=part, model=model, removed=removed, how=how).apply(pipeline):  # type: ignore[arg-type]
                known[key] = score(pipeline)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "scores": known[key]}) + "\n")
            print(f"{unit or 'whole model'} {how}: {score.mean(known[key]):.3f}", flush=True)
        return known[key]

    whole, found = scores("", "zero"), list[Contribution]()
    blocks = [name for name, unit in units.items() if unit.block is None]
    for name, unit in units.items():
        for how in [how for how in unit.hows if how in hows or len(unit.hows) == 1]:
            without = score.compare(scores(name, how), whole).overall
            low, high = without.interval.low, without.interval.high
            place = blocks.index(unit.block or name)
            found.append(Contribution(name, unit.block, how, place, unit.parameters, without.value, low, high))
    return sorted(found, key=lambda one: one.dp)


# 2. The cut.


def position_factor(place: int, blocks: int, position: Literal["none", "late_first", "published"]) -> float:
    """What the loss by a unit is multiplied by; a larger product is taken out later."""
    if position == "none":
        return 1.0
    return math.exp((blocks - place) / blocks) if position == "late_first" else math.exp((place - blocks) / blocks)


def choose_cut(
    pipeline: Any,
    contributions: Sequence[Contribution],
    budget: float,
    *,
    units: Literal["blocks", "parts", "both"] = "blocks",
    order: Literal["signed", "absolute"] = "signed",
    position: Literal["none", "late_first", "published"] = "none",
    how: Literal["zero", "identity"] = "zero",
    part: str = "transformer",
    score: str = "",
) -> surgery.BlockPlan:
    """Choose what to take out: the units with the smallest loss, until a share of the weights is gone.

    Args:
        pipeline: The model.
        contributions: What `measure_contributions` found.
        budget: Share of the component's weights to take out, in (0, 1): as much of it as units fill without exceeding it.
        units: Whole blocks, parts of blocks, or blocks first and then parts for what is left of the budget.
        order: Whether a unit without which the score rises goes first (`signed`) or late (`absolute`).
        position: Factor of depth; for `absolute` alone, since a factor turns the order of negative losses around.
        how: What stands in for parts.
        part: The component that is cut.
        score: Description of the score, to be kept in the plan.

    Raises:
        UsageError: If the budget is no share or no unit fits into it, or for a position with signed losses.
    """
    if position != "none" and order != "absolute":
        raise UsageError(
            f"position: expected order absolute with {position}, got {order}; a negative loss would be turned around"
        )
    if not 0 < budget < 1:
        raise UsageError(f"budget: expected a share of the weights in (0, 1), got {budget}")
    model = getattr(pipeline, part)
    total = sum(weight.numel() for weight in model.parameters())
    blocks = {one.unit: one for one in contributions if one.block is None}

    def loss(one: Contribution) -> float:
        dp = abs(one.dp) if order == "absolute" else one.dp
        return dp * position_factor(one.place, len(blocks), position)

    wanted = [one for one in contributions if one.block is None or one.how == how]
    ranked = sorted(wanted, key=lambda one: ((one.block is not None) if units == "both" else False, loss(one)))
    if units != "both":
        ranked = [one for one in ranked if (one.block is None) == (units == "blocks")]
    removed, left = list[Contribution](), budget * total
    for one in ranked:
        if one.parameters <= left and one.block not in {other.unit for other in removed}:
            removed.append(one)
            left -= one.parameters
    if not removed:
        least = min((one.parameters for one in ranked), default=0) / total
        raise UsageError(
            f"budget: expected at least {least:.3f}, the share of the smallest unit of {units}, got {budget}"
        )
    first = min(removed, key=lambda one: one.place)
    kept = {name: one for name, one in blocks.items() if name not in {other.unit for other in removed}}
    return surgery.BlockPlan(
        part=part,
        model=surgery.fingerprint(model),
        removed=tuple(sorted(one.unit for one in removed)),
        how=how,
        frozen_before=first.block or first.unit,
        rates={name: rate for name, rate in block_rates(kept.values()).items() if kept[name].place >= first.place},
        chosen_by=f"{units}, budget {budget:g}, order {order}, position {position}; {score}",
    )


def block_rates(blocks: Iterable[Contribution]) -> dict[str, float]:
    """Share of the learning rate for each block: `min(1, floor / dP)`.

    A dP within noise says nothing, so the floor is the median half-width of the intervals; below it, also where the score rises
    without the block, the rate is 1.
    """
    found = list(blocks)
    floor = sorted((one.high - one.low) / 2 for one in found)[len(found) // 2] if found else 0.0
    return {one.unit: round(min(1.0, floor / max(one.dp, floor, 1e-9)), 4) for one in found}


# 3. Distillation.


class Distillation(LightningModule):
    """Trains what is left of a model towards the outputs and features of the whole one.

    Args:
        policy: The model.
        plan: A `BlockPlan` or the file of one; None trains the whole model, which is a control.
        learning_rate: Learning rate of AdamW; blocks have their share of it.
        task_weight: Weight of the flow-matching loss on the data.
        output_weight: Weight of the distance to the whole model's velocity.
        feature_weight: Weight of the mean distance to the outputs of its blocks.
        freeze: Whether what comes before the first cut is left as it is.
        scale_rates: Whether blocks have learning rates of their own.
        quantize: What the weights are stored as afterwards, such as `nf4`; see `geneval_reward.surgery.quantize`.
        out: Folder for the plans and the trained weights.
    """

    def __init__(
        self,
        policy: train.FlowPolicy,
        *,
        plan: str | surgery.BlockPlan | None = None,
        learning_rate: float = 1e-4,
        task_weight: float = 0.0,
        output_weight: float = 1.0,
        feature_weight: float = 1e-4,
        freeze: bool = True,
        scale_rates: bool = True,
        quantize: str | None = None,
        out: str | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.policy, self.student = policy, policy.transformer
        # In a list, so that the whole model is in no checkpoint.
        self.teachers = [copy.deepcopy(self.student).requires_grad_(False).eval()]
        loaded = surgery.load_plan(plan) if isinstance(plan, str) else plan
        if loaded is not None and not isinstance(loaded, surgery.BlockPlan):
            raise UsageError(f"plan: expected a plan that takes out blocks, got one of kind {loaded.kind!r}")
        self.plan, self.blocks = loaded, list[str]()
        self.groups: list[dict[str, Any]] = [{"params": list(self.student.parameters()), "lr": learning_rate}]
        self.student.requires_grad_(True)
        units = surgery.removable(policy.pipeline)
        if loaded is not None:
            loaded.apply(policy.pipeline)
            frozen, rates = (loaded.frozen_before if freeze else None), (loaded.rates if scale_rates else {})
            how = replace(loaded, frozen_before=frozen, rates=rates)
            self.groups = how.optimizer_groups(policy.pipeline, learning_rate)
        for name in [name for name, unit in units.items() if unit.block is None]:
            if any(weight.requires_grad for weight in self.student.get_submodule(name).parameters()):
                self.blocks.append(name)
        self.task_weight, self.output_weight, self.feature_weight = task_weight, output_weight, feature_weight
        self.quantize, self.out = quantize, out

    def setup(self, stage: str) -> None:
        """Move what Lightning does not know of."""
        self.policy.to(self.trainer.strategy.root_device)
        self.teachers[0].to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a learning rate per block."""
        return torch.optim.AdamW(self.groups, weight_decay=0.0)

    def training_step(self, batch: train.CaptionBatch, batch_idx: int) -> Tensor:
        """Three losses at one random time of each image."""
        teacher, models = self.teachers[0], (self.teachers[0], self.student)
        noised = train.add_noise(self.policy, teacher, batch)
        with ExitStack() as stack:
            kept = [{name: model.get_submodule(name) for name in self.blocks} for model in models]
            features = [stack.enter_context(surgery.recorded_calls(modules)) for modules in kept]
            with torch.no_grad():
                v_dense = self.policy.velocity(teacher, noised.conditions)(noised.x, noised.t)
            v = self.policy.velocity(self.student, noised.conditions)(noised.x, noised.t)
        numbers = {"task": (v - noised.target).square().mean(), "output": (v - v_dense).square().mean()}
        numbers["feature"] = feature_distance(*features) if self.blocks else torch.zeros(())
        loss = self.task_weight * numbers["task"] + self.output_weight * numbers["output"]
        loss = loss + self.feature_weight * numbers["feature"]
        self.log_dict(numbers | {"loss": loss}, prog_bar=True)
        return loss

    def on_train_end(self) -> None:
        """Write the weights and the plans: the weights alone do not say which blocks are missing."""
        if not self.out or not self.trainer.is_global_zero:
            return
        folder = Path(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.student.state_dict().items()}
        save_file(weights, folder / "transformer.safetensors")
        if self.plan is not None:
            surgery.save_plan(self.plan, folder / "plan.json")
        if self.quantize is not None:
            surgery.save_plan(
                surgery.quantize(self.policy.pipeline, "transformer", self.quantize), folder / "int4.json"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the plan with the weights."""
        checkpoint["plan"] = None if self.plan is None else self.plan.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another cut."""
        if checkpoint.get("plan") != (None if self.plan is None else self.plan.to_json()):
            raise UsageError("checkpoint: expected one of the same plan, got one of another; start without --ckpt_path")


def feature_distance(dense: Any, trained: Any) -> Tensor:
    """Mean square distance of the outputs of the blocks, image and text stream, meaned over blocks."""
    found = []
    for name, call in trained.items():
        pairs = [(a, b) for a, b in zip(dense[name].outputs, call.outputs, strict=True) if isinstance(a, Tensor)]
        found.append(torch.stack([(a.detach() - b).square().mean() for a, b in pairs]).mean())
    return torch.stack(found).mean()


# 4. The command line.


def main(args: list[str] | None = None) -> Any:
    """Run `rank`, `choose` or what LightningCLI offers, with `args` in place of `sys.argv` if they are given."""
    words = sys.argv[1:] if args is None else args
    if words[:1] not in (["rank"], ["choose"]):
        return train.RecipeCLI(Distillation, train.Captions, args=args)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["rank", "choose"])
    parser.add_argument("contributions", nargs="?", type=Path, help="what `rank` wrote")
    parser.add_argument("--pipeline", default="pocket", help="what `FlowPolicy` takes")
    parser.add_argument("--scorer", default="truth", help="a backend such as `lite`; `truth` for the pocket model")
    parser.add_argument("--prompts", type=int, default=480, help="number of training prompts, as many of each task")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps")
    parser.add_argument("--how", nargs="+", default=["zero"], choices=["zero", "identity"])
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--units", default="blocks", choices=["blocks", "parts", "both"])
    parser.add_argument("--order", default="signed", choices=["signed", "absolute"])
    parser.add_argument("--position", default="none", choices=["none", "late_first", "published"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    pipeline = train.FlowPolicy(given.pipeline).pipeline
    pipeline.set_progress_bar_config(disable=True)
    scorer = given.scorer if given.scorer == "truth" else GenEvalScorer.from_pretrained(given.scorer)
    score = FixedNoise(calibration_prompts(given.pipeline, given.prompts), scorer, num_inference_steps=given.steps)
    path = given.out if given.step == "rank" else given.contributions
    found = measure_contributions(pipeline, score, path, hows=given.how)
    if given.step == "rank":
        for one in found:
            print(f"{one.unit} {one.how}: dP in points {points_with_interval(one.dp, one.low, one.high)}")
        return found
    named = {"units": given.units, "order": given.order, "position": given.position, "how": given.how[0]}
    named["score"] = f"{score.name} of {given.prompts} training prompts, {given.steps} steps"
    plan = choose_cut(pipeline, found, given.budget, **named)
    surgery.save_plan(plan, given.out)
    print(f"{given.out}: without {', '.join(plan.removed)}; trained from {plan.frozen_before} on")
    return plan


def calibration_prompts(pipeline: str, count: int) -> list[PromptSpec]:
    """Training prompts, evenly over the tasks, none of which the suite asks; pocket has no single objects besides the suite's."""
    if pipeline != "pocket":
        return list(training_prompts(count, seed=1))
    suite, pools = {spec.prompt for spec in pocket_suite()}, training_specs()
    tags, rng = [tag for tag in TAGS if tag != "single_object"], random.Random(1)
    pools = {tag: [spec for spec in pools[tag] if spec.prompt not in suite] for tag in tags}
    return [spec for tag in tags for spec in rng.choices(pools[tag], k=count // len(tags))]


if __name__ == "__main__":
    main()
