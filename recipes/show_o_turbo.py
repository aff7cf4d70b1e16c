"""Show-o Turbo (arXiv 2502.05415 v1): a masked painter distilled to few steps without guidance, for the pocket token model.

    python recipes/show_o_turbo.py fit --config configs/show_o_turbo_pocket.yaml
    python recipes/show_o_turbo.py fit --config configs/show_o_turbo_pocket.yaml --model.consistency_weight 0.05
    python recipes/show_o_turbo.py fit --config configs/show_o_turbo_pocket.yaml --ckpt_path last     # goes on where it stopped

This file is the whole method, in the order of the algorithm. What is not the method is called by name: `geneval_reward.pocket`
(the model, its sampler and its questions) and `geneval_reward.train` (copies of weights, prompts, ranks). Only prompts are
needed, no images. One epoch is one Lightning batch:

    path   = the guided teacher paints each prompt in K = 8 greedy steps, one path per prompt     `rollout`
    k      ~ U{0 .. K-1}, e = the end of the segment of k                                          `losses`
    label  = at each position the guided teacher's distribution of the last step, up to e, that still found it masked
    loss   = CE(student(state k), label)                        where state k is masked
             + c CE(student(state k), target(state e))          where state e is masked as well
             + t CE(student's answers, teacher's answers)       about the finished pictures: the text side is kept
    segments 8 -> 4 -> 2 -> 1: with one segment every label is that of the step that fixed the code       `segments`

| | paper | released code (zhijie-group/Show-o-Turbo, 6dd6b0e) | here, and why |
|---|---|---|---|
| model | Show-o, 256 or 1,024 codes | the same | `PocketTokens`, 18 codes: Show-o's sampler and attention |
| teacher | guided Show-o | frozen original in all stages, 16 or 32 steps | the same, 8 steps: its samples gain nothing from 16 |
| path | sampled trajectory | greedy codes, confidence without noise: one path per prompt | as released |
| segments | shrink in stages to 1 | two scripts: 8 of 32 steps, and 1 of 16 | 8, 4, 2, 1 in one run |
| end of a segment | - | first step of the next segment, or the last step | as released |
| consistency weight | part of the method | 0 (512 px), 0.05 (256 px) | option `consistency_weight`, 0 |
| EMA target | - | `EMA_ALPHA` is declared and not used; the student itself | option `target_decay`, not in the release |
| text | Jacobi trajectories of long texts | 10 CE + consistency, times 0.5 | soft CE on the teacher's answers, not accelerated |
| what is read | - | LLaVA's photographs | the teacher's own paintings |
| paths | - | made again for every step | `passes` steps over each path: paths cost the most |
| optimizer | all weights | AdamW 1e-5, constant, batch 4, clip 1 | AdamW 1e-3, falling to 0, batch 64: hundreds of steps |
| sampling | top-k at 2 and 4 steps | 200 or 500 of 8,192 codes | `paint(top_k=...)`, swept in docs/unified.md |

Needs the extra `lightning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from torch import Tensor

from geneval_reward import train
from geneval_reward.errors import UsageError
from geneval_reward.pocket import PocketTokens, load_tokens
from geneval_reward.pocket.codes import MASK
from geneval_reward.pocket.painting import masked_decode
from geneval_reward.pocket.questions import question_of
from geneval_reward.pocket.token_words import PAD
from geneval_reward.pocket.tokens_file import TOKENS_FOLDER, save_tokens


@dataclass(frozen=True)
class Paths:
    """The teacher's greedy paths for some prompts.

    Attributes:
        text: Word numbers of the prompts, (b, 12).
        codes: Finished paintings, (b, L).
        fixed: Step, from 0, in which each code was fixed, (b, L). State k has `MASK` where `fixed >= k`.
        logits: Guided logits of every step, (K, b, L, V).
        questions: One per painting; empty without a text loss.
        answers: The teacher's.
        answer_logits: The teacher's, (b, words, vocabulary); None without a text loss.
        generators: One per path, to draw k.
    """

    text: Tensor
    codes: Tensor
    fixed: Tensor
    logits: Tensor
    questions: list[str]
    answers: list[str]
    answer_logits: Tensor | None
    generators: list[torch.Generator]

    def state(self, step: Tensor) -> Tensor:
        """The codes (b, L) that steps (b, 1) found, `MASK` where they were not fixed yet."""
        return self.codes.where(self.fixed < step, MASK)


class ShowOTurbo(LightningModule):
    """Show-o Turbo on the pocket token model.

    Args:
        tokens: Folder of the weights that teacher and student start from; None for the packaged ones.
        teacher_steps: Steps K of the teacher's path.
        teacher_guidance: Guidance of the teacher; 1 is none.
        segments: Number of segments in each stage; each must divide K.
        epochs_per_stage: Epochs of each stage; further epochs belong to the last one.
        teacher_weight: Weight of the loss against the teacher's labels.
        consistency_weight: Weight of the loss against the target at the segment's end.
        target_decay: Decay of the moving average of the student that is the target; 0 for the student itself, as released.
        text_weight: Weight of the loss against the teacher's answers; 0 leaves it out.
        text_batch: Paintings of a batch that are asked about in an optimizer step; other ones each time.
        learning_rate: Learning rate of AdamW in the first epoch; see `rate`.
        passes: Optimizer steps over each batch of paths, each with newly drawn k.
        eval_steps: Steps of `generate`.
        save: Folder for the student's weights after each stage, `segments-8` and so on, which `load_tokens` reads; None: none.

    Raises:
        UsageError: If a number is out of range.
    """

    method = "show-o-turbo"

    def __init__(
        self,
        *,
        tokens: str | None = None,
        teacher_steps: int = 8,
        teacher_guidance: float = 2.0,
        segments: Sequence[int] = (8, 4, 2, 1),
        epochs_per_stage: int = 1,
        teacher_weight: float = 1.0,
        consistency_weight: float = 0.0,
        target_decay: float = 0.0,
        text_weight: float = 0.5,
        text_batch: int = 16,
        learning_rate: float = 1e-3,
        passes: int = 8,
        eval_steps: int = 4,
        save: str | None = None,
    ) -> None:
        super().__init__()
        counts = {"teacher_steps": teacher_steps, "epochs_per_stage": epochs_per_stage, "passes": passes}
        for name, value in (counts | {"text_batch": text_batch, "eval_steps": eval_steps}).items():
            if value < 1:
                raise UsageError(f"{name}: expected an integer >= 1, got {value}")
        if not segments or any(number < 1 or teacher_steps % number for number in segments):
            raise UsageError(f"segments: expected divisors of the {teacher_steps} teacher_steps, got {list(segments)}")
        weights = {
            "teacher_weight": teacher_weight,
            "consistency_weight": consistency_weight,
            "text_weight": text_weight,
        }
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"{name}: expected a number >= 0, got {weight}")
        if not teacher_weight and not consistency_weight:
            raise UsageError(
                "teacher_weight, consistency_weight: expected one above 0, got 0 and 0; nothing would be painted"
            )
        if not 0 <= target_decay < 1:
            raise UsageError(f"target_decay: expected a number in [0, 1), got {target_decay}")
        self.automatic_optimization = False  # one batch is a rollout with many optimizer steps
        self.strict_loading = False  # checkpoints have no frozen weights
        self.student = load_tokens(folder=tokens or TOKENS_FOLDER)
        self.weights = train.PolicyWeights(self.student.transformer, lora_rank=0, reference=True)
        with self.weights.role("reference") as frozen:
            self.teacher = PocketTokens(frozen)  # type: ignore[arg-type]  # a copy of the student's network
        self.train()  # the network has no dropout, and Lightning warns of parts in eval mode
        self.target = train.PolicyAverage(self.weights, max_decay=target_decay)
        self.teacher_steps, self.teacher_guidance = teacher_steps, teacher_guidance
        self.segments, self.epochs_per_stage = tuple(segments), epochs_per_stage
        self.teacher_weight, self.consistency_weight, self.text_weight = teacher_weight, consistency_weight, text_weight
        self.text_batch, self.learning_rate = text_batch, learning_rate
        self.passes, self.eval_steps = passes, eval_steps
        self.save = save
        self.updates = 0

    def on_train_start(self) -> None:
        """Check that prompts come as `PromptGroups` makes them."""
        train.check_sampler(self.trainer, group_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights, as released."""
        return torch.optim.AdamW(self.weights.trained().values(), lr=self.learning_rate, weight_decay=0.01)

    def stage(self) -> int:
        """Index of the epoch's stage."""
        return min(self.current_epoch // self.epochs_per_stage, len(self.segments) - 1)

    def rate(self) -> float:
        """Share of the learning rate in this epoch: it falls linearly over `max_epochs`, and is 1 if they are not limited."""
        epochs = self.trainer.max_epochs
        return 1 - self.current_epoch / epochs if epochs is not None and epochs > 0 else 1.0

    def training_step(self, batch: train.RolloutBatch, batch_idx: int) -> None:
        """One epoch of the method."""
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * self.rate()
        with train.errors_together(f"paths of epoch {batch.epoch}", self.trainer):
            paths = self.rollout(batch)
        metrics = self.update(paths)
        metrics |= {"segments": float(self.segments[self.stage()]), "updates": float(self.updates)}
        self.log_dict(metrics, on_step=True, on_epoch=False, batch_size=1)

    # 1. The teacher's paths.

    @torch.no_grad()
    def rollout(self, batch: train.RolloutBatch) -> list[Paths]:
        """Paint the epoch's prompts with the guided teacher, greedily, and let it answer questions about its paintings."""
        found = []
        for specs, slots in batch.split():
            text = self.teacher.read([spec.prompt for spec in specs])
            generators, logits = batch.generators(slots), list[Tensor]()

            def guided(codes: Tensor, text: Tensor = text, logits: list[Tensor] = logits) -> Tensor:
                logits.append(self.teacher.logits(text, codes, self.teacher_guidance))
                return logits[-1]

            painting, _ = masked_decode(
                guided, generators, steps=self.teacher_steps, temperature=0.0, choice_noise=0.0, device=text.device
            )
            # A model with fewer codes than steps is finished before the last step; later labels are those of its last one.
            logits += logits[-1:] * (self.teacher_steps - len(logits))
            questions, answers, answer_logits = list[str](), list[str](), None
            if self.text_weight:
                questions = [question_of(spec)[0] for spec in specs]
                # What the prompt asks for is no answer: it would teach the reader to say what was wanted, not what it sees.
                answers = self.teacher.answer(painting.codes, questions)
                answer_logits, _ = self.teacher.answer_logits(painting.codes, questions, answers)
            steps = painting.commits - 1
            found.append(
                Paths(text, painting.codes, steps, torch.stack(logits), questions, answers, answer_logits, generators)
            )
        return found

    # 2. Losses.

    def losses(self, paths: Paths, total: int) -> dict[str, Tensor]:
        """Compute the losses at one step of each path, drawn from the path's own generator.

        Args:
            paths: A batch of paths.
            total: Number of paths of all ranks in this optimizer step; losses are sums over paths divided by it.

        Returns:
            Scalars `teacher`, `consistency` and `text`, as far as they have a weight.
        """
        drawn = [torch.randint(self.teacher_steps, (1,), generator=generator) for generator in paths.generators]
        step = torch.stack(drawn).to(paths.codes.device)  # (b, 1)
        length = self.teacher_steps // self.segments[self.stage()]
        end = ((step // length + 1) * length).clamp_max(self.teacher_steps - 1)
        masked, masked_at_end = paths.fixed >= step, paths.fixed >= end
        found: dict[str, Tensor] = {}
        target = None
        if self.consistency_weight:
            # First, since taking the average's weights changes the student's in place.
            with torch.no_grad(), self.target.average_parameters():
                target = self.student.logits(paths.text, paths.state(end))
        logits = self.student.logits(paths.text, paths.state(step))
        if self.teacher_weight:
            last = paths.fixed.minimum(end)[None, :, :, None].expand(-1, -1, -1, logits.shape[2])
            found["teacher"] = soft_loss(logits, paths.logits.gather(0, last)[0], masked) / total
        if target is not None:
            found["consistency"] = soft_loss(logits, target, masked_at_end) / total
        if paths.answer_logits is not None:
            rows = torch.randperm(len(paths.codes), generator=paths.generators[0])[: self.text_batch].tolist()
            questions, answers = [paths.questions[row] for row in rows], [paths.answers[row] for row in rows]
            said, words = self.student.answer_logits(paths.codes[rows], questions, answers)
            found["text"] = (
                soft_loss(said, paths.answer_logits[rows], words != PAD) / total * (len(paths.codes) / len(rows))
            )
        return found

    # 3. Update.

    def update(self, paths: Sequence[Paths]) -> dict[str, float]:
        """Take `passes` optimizer steps over every batch of paths; gradients are summed over ranks."""
        optimizer: Any = self.optimizers()
        weights = {
            "teacher": self.teacher_weight,
            "consistency": self.consistency_weight,
            "text": self.text_weight,
        }
        sums = train.MetricSums()
        for _ in range(self.passes):
            for part in paths:
                optimizer.zero_grad()
                with train.errors_together("update", self.trainer), train.local_gradients(self.trainer):
                    losses = self.losses(part, len(part.codes) * self.trainer.world_size)
                    self.manual_backward(sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(())))
                train.sum_gradients(self.weights.trained().values())
                norm = train.clip_gradients(self.weights.trained().values(), 1.0)
                if not norm.isfinite():
                    raise UsageError(
                        f"epoch {self.current_epoch}: expected finite gradients, got {float(norm)}; the weights have "
                        "diverged: lower learning_rate"
                    )
                optimizer.step()
                self.target.update()
                sums.add({f"loss/{name}": loss for name, loss in losses.items()})
                sums.add({"grad_norm": norm / self.trainer.world_size})
                sums.count_step()
                self.updates += 1
        return sums.over_ranks()

    # Evaluation, weights and checkpoints.

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], num_inference_steps: int | None = None
    ) -> list[Image.Image]:
        """Paint without guidance; `GenEvalCallback` calls this.

        Args:
            prompts: Texts.
            seeds: One per prompt; an image depends on its own alone.
            num_inference_steps: Number of steps; `eval_steps` if None.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        painting = self.student.paint(prompts, generators, steps=num_inference_steps or self.eval_steps)
        return self.student.images(painting.codes)

    def on_train_epoch_end(self) -> None:
        """Write the student's weights at the end of a stage, and in the last stage after every epoch."""
        ends = (self.current_epoch + 1) % self.epochs_per_stage == 0 or self.stage() == len(self.segments) - 1
        if self.save is None or not ends or not self.trainer.is_global_zero:
            return
        names = "teacher_steps teacher_guidance teacher_weight consistency_weight text_weight text_batch learning_rate passes"
        save_tokens(
            self.student,
            Path(self.save) / f"segments-{self.segments[self.stage()]}",
            about="A student of recipes/show_o_turbo.py.",
            segments=self.segments[: self.stage() + 1],
            updates=self.updates,
            target_decay=self.target.max_decay,
            **{name: getattr(self, name) for name in names.split()},
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the student and its average; the teacher is loaded from its file."""
        checkpoint["state_dict"] = {}
        checkpoint["show_o_turbo"] = {
            "method": self.method,
            **train.policy_state(self.weights, self.target),
            "updates": self.updates,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint of this method and model."""
        state = checkpoint.get("show_o_turbo")
        if state is None:
            raise UsageError(f"checkpoint: expected one of {self.method}, got one without a show_o_turbo entry")
        train.load_policy_state(self.weights, self.target, state)
        self.updates = int(state["updates"])


def soft_loss(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy against soft labels: the mean over each row's counted positions, summed over rows.

    Args:
        logits: (b, L, V).
        labels: Logits of the labels, (b, L, V).
        counted: Which positions count, (b, L).
    """
    entropies = -(labels.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return ((entropies * counted).sum(1) / counted.sum(1).clamp_min(1)).sum()


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line, with `args` in place of `sys.argv` if they are given."""
    return train.RecipeCLI(ShowOTurbo, train.PromptGroups, args=args)


if __name__ == "__main__":
    main()
