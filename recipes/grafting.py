"""Grafting (arXiv 2506.05340, NeurIPS 2025), for Stable Diffusion 3 and 3.5, FLUX and the pocket model.

    python recipes/grafting.py plan --unit ff --operator mlp --options '{"ratio": 0.5}' --out runs/graft/plan.json
    python recipes/grafting.py fit --config configs/graft_pocket_regress.yaml
    python recipes/grafting.py fit --config configs/graft_pocket_tune.yaml

This file is the whole method, in the order of the algorithm. What is not the method is called by name: `geneval_reward.surgery`
(operators, plans that exchange them and change them back) and `geneval_reward.train` (a pipeline as a flow, captions). Parts of a
trained model are exchanged for other operators in two stages:

    record  : inputs and outputs of the parts in the dense model at drawn times    `record`
    regress : |g(input) - output|, L1 for attention and L2 for the rest            `regress`, each operator g on its own
    tune    : |v - (noise - x0)|^2 with the operators in place, all weights        `tune`

| | paper | released code (keshik6/grafting, 6ace8b5, 85bd9e1, 4397217) | here, and why |
|---|---|---|---|
| model | DiT-XL/2, PixArt-Sigma | the same | joint attention: SD3, FLUX, pocket; plans also fit PixArt and Sana |
| attention | Hyena, sliding window, Mamba-2 | causal, for CUDA | window and linear kernel within image tokens; all text is seen |
| MLP | ratio 3 and 6 | the same | any ratio |
| pairs | parallel, merged by a linear layer | - | the same per stream; the layer starts as a sum, so no stage 1 is lost |
| activations | 8k samples | a data set per block on disk, fp16 | recorded in each step, none kept: every sample is new |
| blocks | each on its own | each on its own | in one run of the dense model, with a loss each: their gradients do not mix |
| stage-1 loss | L1 attention, L2 MLP | also scaled by the gate | the loss of the plan, unscaled |
| stage-1 rate | 1e-4 | 5e-4 to 1e-3, halved three times, clip 10 | 1e-3 constant, clip 10 |
| stage 2 | 50k steps of 256, rate 1e-4, warm-up 1000 | EMA .9999, clip 10 | the same loss, hundreds of steps, no EMA |
| text to image | LoRA of rank 64 | - | all weights |
| layers | 50 % interleaved, by locality, deepest | odd blocks | `all`, `interleaved` (odd), `top:k` by held-out error, indices |
| stage-1 weights | of the same block | one configuration loads block 0's into block 1 | of the same block |

What a graft needs beside it: the dense model with the same stage 2, new weights in the same operator (`renew`), and the part left
out with the same stage 2 (a `BlockPlan`). A graft that beats the dense model has only been trained longer. Operations are counted
by `geneval_reward.surgery.sizes.count_operations`.

Needs the extras `lightning` and `diffusers`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward import surgery, train
from geneval_reward.errors import UsageError
from geneval_reward.support.files import read_json, write_whole

LOSSES = {"l1": functional.l1_loss, "l2": functional.mse_loss, "huber": functional.smooth_l1_loss}


class Grafting(LightningModule):
    """Both stages of the method.

    Args:
        policy: The model.
        stage: `regress` trains new operators on activations of the dense model; `tune` trains the model with them.
        plan: A plan or the file of one. `tune` also takes a `BlockPlan`, the control that leaves the parts out, and None, the
            dense model.
        weights: What `regress` wrote, for `tune`; operators start as they are made if None.
        learning_rate: Learning rate of AdamW.
        warmup: Steps over which it rises.
        teacher_weight: Weight of the distance to the dense model's velocity in `tune`; the paper has none.
        held_out: Batches for the held-out error, of another seed than those that are trained on.
        out: Folder for weights and errors.
    """

    def __init__(
        self,
        policy: train.FlowPolicy,
        *,
        stage: Literal["regress", "tune"] = "regress",
        plan: str | surgery.Plan | None = None,
        weights: str | None = None,
        learning_rate: float = 1e-3,
        warmup: int = 0,
        teacher_weight: float = 0.0,
        held_out: int = 4,
        out: str | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.policy, self.stage = policy, stage
        self.plan = surgery.load_plan(plan) if isinstance(plan, str) else plan
        self.learning_rate, self.warmup, self.teacher_weight = learning_rate, warmup, teacher_weight
        self.held_out, self.out, self.errors = held_out, out, dict[str, float]()
        # In a list, so that the dense model is in no checkpoint.
        self.dense = [copy.deepcopy(policy.transformer).requires_grad_(False).eval()]
        self.units: list[str] = []
        if self.plan is not None:
            self.plan.apply(policy.pipeline)
        if stage == "regress":
            if not isinstance(self.plan, surgery.GraftPlan):
                raise UsageError("plan: expected a GraftPlan, whose operators are regressed, got none")
            self.units = list(self.plan.units)
            operators = [policy.transformer.get_submodule(unit.split("+")[0]) for unit in self.units]
            self.trained: nn.Module = nn.ModuleList(operators)
        else:
            self.trained = policy.transformer
            if weights is not None and isinstance(self.plan, surgery.GraftPlan):
                load_operators(policy.transformer, self.plan.units, weights)
        self.trained.requires_grad_(True)

    def setup(self, stage: str) -> None:
        """Move what Lightning does not know of."""
        self.policy.to(self.trainer.strategy.root_device)
        self.dense[0].to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up."""
        optimizer = torch.optim.AdamW(self.trained.parameters(), lr=self.learning_rate, weight_decay=0.0)
        if not self.warmup:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: train.CaptionBatch, batch_idx: int) -> Tensor:
        """One step of the stage."""
        noised = train.add_noise(self.policy, self.dense[0], batch)
        numbers = self.regress(noised) if self.stage == "regress" else self.tune(noised)
        loss = torch.stack(list(numbers.values())).sum()
        self.log_dict({"loss": loss, **numbers}, prog_bar=False)
        return loss

    # Stage 1.

    def record(self, noised: train.NoisedBatch) -> dict[str, surgery.Call]:
        """Run the dense model and record the call of each unit; that of a pair goes from its first block to its second."""
        model = self.dense[0]
        modules = {name: model.get_submodule(name) for unit in self.units for name in unit.split("+")}
        with surgery.recorded_calls(modules) as calls, torch.no_grad():
            self.policy.velocity(model, noised.conditions)(noised.x, noised.t)
        found = {}
        for unit in self.units:
            first, last = calls[unit.split("+")[0]], calls[unit.split("+")[-1]]
            found[unit] = surgery.Call(first.arguments, first.args, first.kwargs, last.output)
        return found

    def regress(self, noised: train.NoisedBatch) -> dict[str, Tensor]:
        """The loss of each operator on its inputs and outputs in the dense model."""
        assert isinstance(self.plan, surgery.GraftPlan)
        distance, losses = LOSSES[self.plan.loss], {}
        for operator, (unit, call) in zip(self._operators(), self.record(noised).items(), strict=True):
            pairs = output_pairs(operator(*call.args, **call.kwargs), call)
            losses[unit] = torch.stack([distance(new, old) for new, old in pairs]).sum()
        return losses

    @torch.no_grad()
    def measure_errors(self, captions: train.Captions) -> dict[str, float]:
        """Squared error of each operator on batches that it was not trained on, relative to the squared output.

        1 is a part that is left out. The output of a pair is the change of its streams.
        """
        sums = {unit: [0.0, 0.0] for unit in self.units}
        other = captions.with_seed(captions.seed + 1_000_003)
        for index in range(self.held_out):
            noised = train.add_noise(self.policy, self.dense[0], other.batch(index))
            for operator, (unit, call) in zip(self._operators(), self.record(noised).items(), strict=True):
                streams = [value for value in call.arguments.values() if isinstance(value, Tensor) and "+" in unit]
                for new, old in output_pairs(operator(*call.args, **call.kwargs), call):
                    base = next((value for value in streams if value.shape == old.shape), torch.zeros_like(old))
                    sums[unit][0] += float((new - old).square().sum())
                    sums[unit][1] += float((old - base).square().sum())
        return {unit: error / power for unit, (error, power) in sums.items()}

    # Stage 2.

    def tune(self, noised: train.NoisedBatch) -> dict[str, Tensor]:
        """The flow-matching loss, and the distance to the dense model if it has a weight."""
        v = self.policy.velocity(self.policy.transformer, noised.conditions)(noised.x, noised.t)
        losses = {"task": (v - noised.target).square().mean()}
        if self.teacher_weight:
            with torch.no_grad():
                v_dense = self.policy.velocity(self.dense[0], noised.conditions)(noised.x, noised.t)
            losses["teacher"] = self.teacher_weight * (v - v_dense).square().mean()
        return losses

    # What is kept.

    def on_train_end(self) -> None:
        """Measure the held-out errors of stage 1, and write weights, errors and the plan."""
        if self.stage == "regress":
            self.errors = self.measure_errors(self.trainer.datamodule)  # type: ignore[attr-defined]
        if self.out is None or not self.trainer.is_global_zero:
            return
        folder = Path(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        if self.plan is not None:
            surgery.save_plan(self.plan, folder / "plan.json")
        names = [unit.split("+")[0] for unit in self.units]
        weights = {
            name: tensor.contiguous()
            for name, tensor in self.policy.transformer.state_dict().items()
            if self.stage == "tune" or any(name.startswith(f"{first}.") for first in names)
        }
        save_file(weights, folder / ("operators.safetensors" if self.stage == "regress" else "transformer.safetensors"))
        if self.errors:
            write_whole(folder / "errors.json", json.dumps(self.errors, indent=1) + "\n")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the plan with the weights."""
        checkpoint["plan"] = None if self.plan is None else self.plan.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another plan."""
        if checkpoint.get("plan") != (None if self.plan is None else self.plan.to_json()):
            raise UsageError("checkpoint: expected one of the same plan, got one of another; start without --ckpt_path")

    def _operators(self) -> list[nn.Module]:
        return list(self.trained.children())


def output_pairs(output: Any, call: surgery.Call) -> list[tuple[Tensor, Tensor]]:
    """Pair the outputs of an operator with the recorded ones, leaving out those that are not tensors."""
    new = [output] if isinstance(output, Tensor) else list(output)
    pairs = zip(new, call.outputs, strict=True)
    return [(a, b.detach()) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]


def load_operators(model: nn.Module, units: Iterable[str], path: str) -> None:
    """Load the weights of units from a file of stage 1, which may hold those of other layers too.

    Raises:
        UsageError: If the file lacks a weight of a unit, or has it in another shape.
    """
    found, known = load_file(path), model.state_dict()
    firsts = tuple(f"{unit.split('+')[0]}." for unit in units)
    wanted = {name: tensor.shape for name, tensor in known.items() if name.startswith(firsts)}
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            raise UsageError(f"weights: expected operators of this plan in {path}, got none for {name} {tuple(shape)}")
    model.load_state_dict({name: found[name] for name in wanted}, strict=False)


def main(args: list[str] | None = None) -> Any:
    """Run `plan`, or what LightningCLI offers, with `args` in place of `sys.argv` if they are given."""
    words = sys.argv[1:] if args is None else args
    if words[:1] != ["plan"]:
        return train.RecipeCLI(Grafting, train.Captions, args=args)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["plan"])
    parser.add_argument("--pipeline", default="pocket", help="what `FlowPolicy` takes")
    parser.add_argument("--unit", default="ff", help="a part of a block, such as attn or ff, or pair")
    parser.add_argument("--operator", default="mlp", help="a name in surgery.OPERATORS, or module:function")
    parser.add_argument("--options", default="{}", type=json.loads, help="arguments of the operator, as JSON")
    parser.add_argument("--layers", default="interleaved", help="all, interleaved, top:N, or indices such as 1,3")
    parser.add_argument("--errors", type=Path, help="errors.json of a stage 1 of all layers, for top:N")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    layers: Any = given.layers
    if layers.replace(",", "").isdigit():
        layers = [int(word) for word in layers.split(",")]
    errors: Mapping[str, float] | None = read_json(given.errors) if given.errors else None
    pipeline = train.FlowPolicy(given.pipeline).pipeline
    plan = surgery.plan_graft(pipeline, given.unit, given.operator, layers=layers, errors=errors, options=given.options)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    surgery.save_plan(plan, given.out)
    print(f"{given.out}: {plan.operator} in {', '.join(plan.units)}")
    return plan


if __name__ == "__main__":
    main()
