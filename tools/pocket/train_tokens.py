"""Train the pocket token model, painter and reader, by likelihood, from nothing, on scenes made on the fly.

    python tools/pocket/train_tokens.py --out geneval_reward/data/pocket_tokens

The painter learns masked codes from captions that are partly wrong, as web captions are. Two thirds of the masks are
random with the cosine schedule of Show-o, one third hides whole levels, so that the same weights paint level by level.
The reader learns from few labels of all compositions: questions whose answers are taken from the captions, wrong ones included.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import geneval_reward
from geneval_reward.pocket.codes import BOOK, LENGTH, LEVEL_OF, LEVELS, MASK, bare_ground, encode
from geneval_reward.pocket.prompts import pocket_suite, training_specs
from geneval_reward.pocket.questions import question_of
from geneval_reward.pocket.token_words import END, PAD
from geneval_reward.pocket.tokens import PocketTokens
from geneval_reward.pocket.tokens_file import save_tokens
from geneval_reward.pocket.world import Noise, sample_captioned
from geneval_reward.prompts import TAGS, PromptSpec

MIX = {"single_object": 1, "two_object": 2, "counting": 3, "colors": 2, "position": 4, "color_attr": 3}
NOISE = Noise(displace=0.3)


def captioned(count: int, seed: int, pools: Mapping[str, Sequence[PromptSpec]]) -> tuple[list[PromptSpec], Tensor]:
    """Captions and the codes of their scenes."""
    rng = np.random.default_rng(seed)
    tags = [tag for tag in TAGS if MIX.get(tag)]
    shares = np.array([MIX[tag] for tag in tags], float)
    drawn = [pools[tags[k]] for k in rng.choice(len(tags), size=count, p=shares / shares.sum())]
    specs = [pool[int(rng.integers(len(pool)))] for pool in drawn]
    return specs, encode([sample_captioned(spec, rng, NOISE) for spec in specs])


def masked(codes: Tensor, generator: torch.Generator, by_level: float) -> Tensor:
    """Hide some codes: a random cosine share, or with probability `by_level` all from a random level on."""
    count = len(codes)
    share = torch.cos(torch.rand(count, generator=generator) * torch.pi / 2)
    hidden = (share * LENGTH).round().clamp(1, LENGTH).long()
    random = torch.rand(count, LENGTH, generator=generator).argsort(1).argsort(1) < hidden[:, None]
    first = torch.randint(LEVELS, (count, 1), generator=generator)
    levels = torch.tensor(LEVEL_OF) >= first
    whole = torch.rand(count, 1, generator=generator) < by_level
    return torch.where(torch.where(whole, levels, random), MASK, codes)


def painter_loss(logits: Tensor, shown: Tensor, whole: Tensor, bare: Tensor) -> Tensor:
    """Mean negative log-likelihood of the hidden codes.

    Which of its 64 codes bare ground has is chance and cannot be learned, so this part of its likelihood, `log p(code | bare)`,
    weighs only a tenth: it would add noise to the gradient. No minimum moves.
    """
    logits = logits.log_softmax(-1)
    ground = logits.masked_fill(~bare, -torch.inf).logsumexp(-1)
    likely = logits.gather(2, whole[..., None])[..., 0]
    is_bare = bare.expand(len(whole), -1, -1).gather(2, whole[..., None])[..., 0]
    likely = torch.where(is_bare, ground + 0.1 * (likely - ground), likely)
    return -likely[shown == MASK].mean()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights and their provenance")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="stop after so long at the latest, with the rates at 0 by then")
    parser.add_argument("--batch", type=int, default=64, help="captioned scenes per step")
    parser.add_argument("--scenes", type=int, default=20_000, help="captioned scenes in all")
    parser.add_argument(
        "--labels", type=int, default=6000, help="labelled scenes that the reader sees, again and again"
    )
    parser.add_argument("--questions", type=int, default=32, help="labelled scenes per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="of AdamW, for vectors and tables")
    parser.add_argument("--muon-lr", type=float, default=4e-3, help="of Muon, for the blocks' matrices")
    parser.add_argument("--by-level", type=float, default=1 / 3, help="share of masks that hide whole levels")
    parser.add_argument(
        "--damage", type=float, default=0.3, help="chance that a reader sees a wrong code of level 1 or 2"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    model = PocketTokens()
    net = model.transformer
    pools = training_specs()
    specs, codes = captioned(args.scenes, args.seed, pools)
    text = model.read([spec.prompt for spec in specs])
    # What the painter never painted must be readable: labels cover the compositions that its captions leave out.
    everything = {tag: [*pools[tag], *(spec for spec in pocket_suite() if spec.tag == tag)] for tag in TAGS}
    asked, about = captioned(args.labels, args.seed + 1, everything)
    questions, answers = zip(*(question_of(spec) for spec in asked), strict=True)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.995)).requires_grad_(False)
    matrices = [p for name, p in net.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    rest = [p for p in net.parameters() if all(p is not q for q in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.99)),
    ]

    def rate(step: int) -> float:
        done = step / args.steps
        if args.minutes is not None:
            done = max(done, (time.perf_counter() - started) / 60 / args.minutes)
        return min((step + 1) / 50, max(1 - done, 0))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    bare = bare_ground()
    empty = torch.full((1, text.shape[1]), PAD)
    empty[0, 0] = END
    curve: list[tuple[float, float]] = []

    def save() -> None:
        save_tokens(
            PocketTokens(average.module),
            args.out,
            about="Weights of the pocket token model: the moving average of likelihood training, as float16.",
            licence="Apache-2.0",
            made_by="python tools/pocket/train_tokens.py",
            options={name: value for name, value in vars(args).items() if name != "out"},
            noise={name: getattr(NOISE, name) for name in NOISE.__slots__},
            mix=MIX,
            parameters=sum(p.numel() for p in net.parameters()),
            steps=len(curve),
            seconds={"wall": round(time.perf_counter() - started), "cpu": round(time.process_time() - cpu)},
            loss_curve=[
                {"to_step": int(part[-1]) + 1}
                | dict(zip(("painter", "reader"), np.mean([curve[i] for i in part], 0).round(4).tolist(), strict=True))
                for part in np.array_split(np.arange(len(curve)), min(20, len(curve)))
            ],
            versions={
                "geneval_reward": geneval_reward.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
        )

    for step in range(args.steps):
        rows = torch.randint(args.scenes, (args.batch,), generator=generator)
        whole, words = codes[rows], text[rows]
        words = torch.where(torch.rand(len(words), 1, generator=generator) < 0.1, empty, words)
        shown = masked(whole, generator, args.by_level)
        painted = painter_loss(model.logits(words, shown), shown, whole, bare)
        rows = torch.randint(args.labels, (args.questions,), generator=generator)
        seen = about[rows].clone()
        wrong = torch.rand(len(seen), 2, generator=generator) < args.damage
        seen[:, :2] = torch.where(wrong, torch.randint(BOOK, wrong.shape, generator=generator), seen[:, :2])
        chosen = rows.tolist()
        logits, said = model.answer_logits(seen, [questions[k] for k in chosen], [answers[k] for k in chosen])
        answered = functional.cross_entropy(logits.mT, said, ignore_index=PAD)
        (painted + answered).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        net.zero_grad()
        average.update_parameters(net)
        curve.append((painted.item(), answered.item()))
        last = step + 1 == args.steps or rate(step + 1) == 0
        if (step + 1) % 100 == 0 or last:
            recent = np.mean(curve[-100:], 0).round(4)
            print(
                f"{step + 1} painter {recent[0]} reader {recent[1]} cpu {time.process_time() - cpu:.0f} s", flush=True
            )
            if (step + 1) % 500 == 0 or last:
                save()
        if last:
            break


if __name__ == "__main__":
    main()
