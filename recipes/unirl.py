"""UniRL (arXiv 2505.23380): a unified model paints, answers a question about its picture, and learns from the answer.

    python recipes/unirl.py fit --config configs/unirl_pocket.yaml
    python recipes/unirl.py fit --config configs/unirl_pocket.yaml --model.variant sft
    python recipes/unirl.py fit --config configs/unirl_pocket.yaml --ckpt_path last     # goes on where it stopped

This file is the whole method, in the order of the algorithm. What is not the method is called by name:
`geneval_reward.train` (models, prompt groups, rewards, ranks), `geneval_reward.rl` (the equations), `geneval_reward.judges`
(questions of a record, credits of an answer). No picture from elsewhere enters. The two variants are alternatives:

    GRPO  tokens ~ the model, given the prompt; answer ~ the model, given the tokens and a question       `rollout`
          R = share of the question's parts that the answer gets right                                   `AnswerReward`
          A = (R - mean of the prompt) / (std of the prompt + 1e-4)                                       `advantages`
          loss = mean over tokens of max(-A rho, -A clip(rho, 1 - c, 1 + c)), rho = p / p_old             `losses`
    SFT   tokens ~ the model, as straight-through one-hot vectors                                         `fine_tune`
          loss = -log p(true answer | tokens, question); gradient reaches the painter through the one-hots

This is a *reconstruction*: the training code was not released, and the paper's appendix was not at hand.

| | paper | released code (showlab/UniRL, 66ee484: evaluation only) | here, and why |
|---|---|---|---|
| questions | one per task, free answer | their text, without the prompt | `UnifiedModel.ask`: in words that the model knows |
| reward | graded; counting: 0, +1 class, +2 class and count | - | one point per part, divided by their number |
| who judges an answer | - | Qwen2.5-7B, "same" or "not same" | a parser, `grade_answer`: no language model |
| group | 3 (Show-o), 8 (Janus): one GPU's batch | - | `data.group_size`; groups without spread are counted |
| advantage | GRPO | - | std of the group; clipped at 5 |
| masked likelihood | unknown | - | log p of each token in the step that drew it; which positions a step fixes is left out |
| sum or mean | unknown | - | every painted token weighs the same; so does every picture's answer, however long |
| what is trained | painting and understanding | names of scripts for both, and for each alone | `learn` |
| clip, KL | unknown | a folder's name says `beta_0_2` | `clip_range` 0.2; `kl_weight` 0, with an estimate from the tokens |
| learning rate | 1e-5, all weights | LoRA as an option | AdamW, all weights that the model leaves trainable |
| SFT's gradient | straight-through; which steps is unknown | - | `through` of the model: all steps, or the last |
| SFT's labels | the answer | all text behind the image unless masked | the answer alone |

`reader`, `learn` and `reward` are there for the controls as well: docs/unified.md has what they show. The reader learns from its
own pictures, so a rise of its own score proves nothing: `geneval_reward.train.reader_audit.ReaderAudit` has a judge look.

Needs the extras `lightning` and `diffusers`.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from geneval_reward import rl, train
from geneval_reward.errors import UsageError
from geneval_reward.generate import seed_for
from geneval_reward.judges import QA
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import Reward


@dataclass
class Rollout(train.Batch):
    """One batch of the rollout: what was painted, asked and answered, with the answers' log-probabilities."""

    qas: list[QA]
    painted: train.Painted
    answers: list[str]
    answer_log_probs: Tensor


class UniRL(LightningModule):
    """UniRL; the defaults are the published setting where it is known.

    Args:
        unified: The model, such as `geneval_reward.train.PocketUnified` or `geneval_reward.train.janus.JanusUnified`.
        variant: `grpo` or `sft`.
        learn: What the loss trains: `both`, `painting` or `questions`. The weights are shared, so either changes the other.
        reader: Who answers: `own`, the model in training, or `frozen`, a copy of it from before training.
        reward: `answers`, the graded answers of the reader; or what judges the pictures in their place: a backend,
            `module:function`, a reward, or None for that of the `GenEvalCallback` in the Trainer. Only for `grpo`.
        credit: Credit of a backend's reward, or weights of several.
        learning_rate: Learning rate of AdamW.
        updates_per_epoch: Optimizer steps over consecutive parts of the rollout.
        passes: How often an epoch of `grpo` trains on the whole rollout.
        clip_range: Bound of the distance of a token's ratio from 1.
        kl_weight: Weight of the KL of painted tokens to the untrained model.

    Raises:
        UsageError: If the model lacks a method, a number is out of range, or the choices do not go together.
    """

    method = "unirl"

    def __init__(
        self,
        unified: train.UnifiedModel,
        *,
        variant: Literal["grpo", "sft"] = "grpo",
        learn: Literal["both", "painting", "questions"] = "both",
        reader: Literal["own", "frozen"] = "own",
        reward: Reward | Callable[..., Any] | str | None = "answers",
        credit: str | dict[str, float] = "official",
        learning_rate: float = 1e-5,
        updates_per_epoch: int = 1,
        passes: int = 1,
        clip_range: float = 0.2,
        kl_weight: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("variant", variant, ("grpo", "sft")),
            ("learn", learn, ("both", "painting", "questions")),
            ("reader", reader, ("own", "frozen")),
        ):
            if value not in choices:
                raise UsageError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
        spared = "paint_soft" if variant == "grpo" else "token_log_probs"
        train.check_unified(unified, [name for name in train.UNIFIED_METHODS if name != spared])
        if min(updates_per_epoch, passes) < 1:
            raise UsageError(f"expected updates_per_epoch and passes >= 1, got {updates_per_epoch} and {passes}")
        if reader == "frozen" and learn != "painting":
            raise UsageError(f"learn: expected 'painting' with a frozen reader, which cannot learn, got {learn!r}")
        if variant == "sft" and (reward != "answers" or kl_weight or passes > 1):
            raise UsageError(
                "variant: expected 'grpo' for another reward, a kl_weight or passes, which 'sft' does not have"
            )
        self.automatic_optimization = False  # one batch is a rollout with many backward passes
        self.strict_loading = False  # checkpoints have no frozen weights
        self.unified: Any = unified
        self.network = unified.network
        self.variant, self.learn, self.reader = variant, learn, reader
        self.reward: Any = reward
        self.credit = credit
        self.learning_rate, self.updates_per_epoch, self.passes = learning_rate, updates_per_epoch, passes
        self.clip_range, self.kl_weight = clip_range, kl_weight
        self.other: Any = None  # the untrained model; for SFT of the painter alone, the present one without gradient
        if reader == "frozen" or kl_weight > 0 or (variant, learn) == ("sft", "painting"):
            self.other = copy.deepcopy(unified)
            self.other.network.requires_grad_(False)
        self.images_painted = self.updates = 0

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The trainable weights by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def setup(self, stage: str) -> None:
        """Refuse sharded weights, move the copy to this rank's device, and find the reward."""
        train.refuse_sharded(self.trainer)
        if self.other is not None:
            self.other.network.to(self.trainer.strategy.root_device)
        self.network.train()  # Lightning warns of networks in eval mode when a run starts
        if stage == "fit" and self.variant == "grpo":
            graded = self.reward == "answers"
            self.reward = train.AnswerReward() if graded else train.find_reward(self.reward, self.credit, self.trainer)

    def on_train_start(self) -> None:
        """Check that groups come as `PromptGroups` makes them; with dropout, the ratio would not be 1 at first."""
        train.check_sampler(self.trainer)
        self.network.eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the trained weights."""
        return torch.optim.AdamW(self.trained().values(), lr=self.learning_rate, weight_decay=0.0)

    def training_step(self, batch: train.RolloutBatch, batch_idx: int) -> None:
        """One epoch of the method."""
        if self.variant == "sft":
            self.log_dict(self.fine_tune(batch), on_step=True, on_epoch=False, batch_size=1)
            return
        start = time.monotonic()
        samples, queue, counts = self.rollout(batch)
        sampled = time.monotonic()
        scores = train.gather_scores(queue, batch.specs, batch.slots)
        groups = self.advantages(scores)
        # A picture of advantage 0 has no gradient. Groups without spread are counted as `zero_std_ratio`.
        train.deal_advantages(samples, groups.advantages, groups.trainable)
        scored = time.monotonic()
        metrics = self.update(samples) | counts
        trained = time.monotonic()
        metrics |= {"images": float(self.images_painted), "epoch_number": float(batch.epoch)}
        times = {"sampling": sampled - start, "training": trained - scored, "step": trained - start}
        train.log_epoch(self, metrics, scores, groups, queue, times)

    # 1. Paint, ask, grade.

    @torch.no_grad()
    def rollout(self, batch: train.RolloutBatch) -> tuple[list[Rollout], train.RewardQueue, dict[str, float]]:
        """Paint this rank's share of the epoch and have the reader answer; count what could not be graded."""
        queue, samples = train.RewardQueue(self.reward, self.credit), list[Rollout]()
        bad = Counter[str](not_finite_images=0)
        reader = self.other if self.reader == "frozen" else self.unified
        with train.errors_together(f"rollout of epoch {batch.epoch}", self.trainer):
            for specs, slots in batch.split():
                seeds, qas = batch.seeds(slots), [self.unified.ask(spec) for spec in specs]
                questions = [qa.question for qa in qas]
                painted = self.unified.paint([spec.prompt for spec in specs], seeds)
                # A reader that learns must draw its words; one that only judges gives its best answer.
                answers, log_probs = [""] * len(specs), torch.zeros(len(specs), 0)
                if self.learn != "painting" or isinstance(self.reward, train.AnswerReward):
                    words = [seed_for(seed, "answer", 0) for seed in seeds] if self.learn != "painting" else None
                    answers = reader.answer(painted.tokens, questions, words)
                if self.learn != "painting":
                    log_probs, _ = self.unified.answer_log_probs(painted.tokens, questions, answers)
                rows, first = painted.finite_rows(), sum(len(earlier.slots) for earlier in samples)
                judged: Any = [(qas[row], answers[row]) for row in rows]
                if not isinstance(self.reward, train.AnswerReward) and rows:
                    judged = self.unified.images(painted.tokens[rows])
                queue.put([first + row for row in rows], judged, [specs[row] for row in rows])
                bad["not_finite_images"] += len(specs) - len(rows)
                samples.append(Rollout(specs, slots, qas, painted, answers, log_probs))
        if isinstance(self.reward, train.AnswerReward):
            bad.update(self.reward.counts)
            self.reward.counts.clear()
        self.images_painted += len(batch.slots) * self.trainer.world_size
        return samples, queue, train.sum_counts(bad)

    # 2. Advantages.

    def advantages(self, scores: train.Scores) -> rl.GroupAdvantages:
        """`A = (R - mean of the prompt) / (std of the prompt + 1e-4)`, clipped, from the rewards of all ranks."""
        return rl.group_advantages(scores.rewards, scores.groups, std="group")

    # 3. Losses and update.

    def losses(self, samples: Rollout, total: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield a loss for each pass of the painter, then one for the answers.

        Args:
            samples: A batch of the rollout with its advantages.
            total: How many samples of all ranks this optimizer step trains on. Losses and numbers to log are sums divided by
                it, so that batches, passes and ranks add up exactly.
        """
        if not len(samples.rows):
            return
        rows = samples.rows.to(self.device)
        chosen = samples.rows.tolist()
        advantages = samples.advantages[samples.rows].to(self.device)
        painted = samples.painted.rows(rows)
        prompts = [samples.specs[row].prompt for row in chosen]
        if self.learn != "questions":
            count = total * painted.tokens.shape[1]
            passes = self.unified.token_log_probs(prompts, painted)
            reference = self.other.token_log_probs(prompts, painted) if self.kl_weight > 0 else None
            for log_probs, drawn in passes:
                row, token = drawn.nonzero(as_tuple=True)
                new, old = log_probs[row, token], painted.log_probs[row, token]
                loss = rl.ratio_loss(new, old, advantages[row], clip_range=self.clip_range, denominator=count)
                numbers = {"painting_loss": loss.policy, "painting_clipfrac": loss.clipfrac * len(new) / count}
                numbers["ratio_deviation"] = (loss.ratio - 1).abs().sum() / count
                objective = loss.policy
                if reference is not None:
                    with torch.no_grad():
                        known = next(reference)[0][row, token]
                    numbers["kl"] = rl.categorical_kl(new, known).sum() / count
                    objective = objective + self.kl_weight * numbers["kl"]
                yield objective, numbers
        if self.learn != "painting":
            questions = [samples.qas[row].question for row in chosen]
            answers = [samples.answers[row] for row in chosen]
            log_probs, said = self.unified.answer_log_probs(painted.tokens, questions, answers)
            row, word = said.nonzero(as_tuple=True)
            old = samples.answer_log_probs[rows][:, : said.shape[1]][row, word]
            share = 1 / said.sum(1)[row]
            loss = rl.ratio_loss(
                log_probs[row, word], old, advantages[row], clip_range=self.clip_range, weight=share, denominator=total
            )
            yield loss.policy, {"answer_loss": loss.policy, "answer_clipfrac": loss.clipfrac * len(chosen) / total}

    def update(self, samples: list[Rollout]) -> dict[str, float]:
        """Take `passes * updates_per_epoch` optimizer steps; gradients are summed over batches, passes and ranks."""
        sums = train.MetricSums()
        for _ in range(self.passes):
            for part in train.split_evenly(samples, self.updates_per_epoch):
                total = sum(batch.total for batch in part)
                if total:  # on all ranks alike
                    self.step((loss for batch in part for loss in self.losses(batch, total)), sums)
        return self.numbers(sums) | {"trained_images": float(sum(batch.total for batch in samples))}

    def step(self, losses: Iterator[tuple[Tensor, dict[str, Tensor]]], sums: train.MetricSums) -> None:
        """Take one optimizer step on a sum of losses."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        with train.errors_together("update", self.trainer), train.local_gradients(self.trainer):
            for loss, numbers in losses:
                self.manual_backward(loss)
                sums.add(numbers)
        train.sum_gradients(self.trained().values())
        optimizer.step()
        sums.count_step()
        self.updates += 1

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients here, since with fp16 they have their true scale only now."""
        self.grad_norm = float(train.clip_gradients(self.trained().values(), 1.0))

    def numbers(self, sums: train.MetricSums) -> dict[str, float]:
        """What every variant logs of its updates."""
        return sums.over_ranks() | {"updates": float(self.updates), "grad_norm": getattr(self, "grad_norm", 0.0)}

    # SFT: the true answer's likelihood, end to end.

    def fine_tune(self, batch: train.RolloutBatch) -> dict[str, float]:
        """Take `updates_per_epoch` optimizer steps on the likelihood of the true answers to the model's own pictures."""
        sums = train.MetricSums()
        for part in train.split_evenly(list(batch.split()), self.updates_per_epoch):
            if self.reader == "own" and self.other is not None:
                self.other.network.load_state_dict(self.network.state_dict())
            total = sum(len(slots) for _, slots in part) * self.trainer.world_size
            self.step((self.answer_loss(specs, batch.seeds(slots), total) for specs, slots in part), sums)
        self.images_painted += len(batch.slots) * self.trainer.world_size
        return self.numbers(sums) | {"images": float(self.images_painted), "epoch_number": float(batch.epoch)}

    def answer_loss(self, specs: list[PromptSpec], seeds: list[int], total: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the negative log-likelihood of the true answers, a mean over words and then over pictures."""
        qas, prompts = [self.unified.ask(spec) for spec in specs], [spec.prompt for spec in specs]
        reader = self.unified if self.learn != "painting" else self.other
        tokens = (
            self.unified.paint(prompts, seeds).tokens
            if self.learn == "questions"
            else self.unified.paint_soft(prompts, seeds)
        )
        log_probs, said = reader.answer_log_probs(tokens, [qa.question for qa in qas], [qa.answer for qa in qas])
        likely = log_probs.where(said, 0.0).sum(1) / said.sum(1)
        lost = (~likely.detach().isfinite()).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(
                f"answers: expected finite log-probabilities, got NaN or infinite ones for {len(lost)} of {len(specs)} pictures, "
                f"the first of {specs[lost[0]].prompt!r}; the model has diverged"
            )
        loss = -likely.sum() / total
        return loss, {"answer_loss": loss}

    # Evaluation and checkpoints.

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """Paint with the present weights; `GenEvalCallback` calls this.

        Args:
            prompts: Texts.
            seeds: One per prompt; a picture depends on its own alone.

        Returns:
            uint8 images (3, h, w).
        """
        return list(self.unified.images(self.unified.paint(list(prompts), list(seeds)).tokens))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained."""
        checkpoint["state_dict"] = {}
        weights = {name: p.detach().clone() for name, p in self.trained().items()}
        checkpoint["unirl"] = {"trained": weights, "images_painted": self.images_painted, "updates": self.updates}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same method and model."""
        if "unirl" not in checkpoint:
            raise UsageError("checkpoint: expected one of unirl, got one of another method")
        state, own = checkpoint["unirl"], self.trained()
        train.check_same_tensors(own, state["trained"], "trained weights")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state["trained"][name])
        self.images_painted, self.updates = int(state["images_painted"]), int(state["updates"])


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line, with `args` in place of `sys.argv` if they are given."""
    return train.RecipeCLI(UniRL, train.PromptGroups, args=args)


if __name__ == "__main__":
    main()
