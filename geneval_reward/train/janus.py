"""Janus of `transformers` as a `UnifiedModel`: log-probabilities by teacher forcing, and a gradient through its two encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward.errors import UsageError
from geneval_reward.generate.token_models import draw_janus, read_janus
from geneval_reward.generate.tokens import SeededTokens
from geneval_reward.judges.questions import QA, Wording, qa_for
from geneval_reward.prompts import PromptSpec
from geneval_reward.rl import categorical_log_prob
from geneval_reward.support.imports import require
from geneval_reward.train.unified import Painted


class JanusUnified:
    """Janus or Janus-Pro. It paints tokens of a VQ model and reads pixels through SigLIP, so tokens are decoded to be read.

    A picture is read as it is decoded, without rounding to 8 bits. The VQ model is frozen, as its authors have it; all
    other weights are trained.

    Args:
        model: A `JanusForConditionalGeneration`, or a folder or name on a model hub, such as
            `deepseek-community/Janus-Pro-1B`.
        processor: The model's processor; None loads it along with the model.
        guidance: Scale of classifier-free guidance, > 1. Log-probabilities are those of the guided distribution.
        tau: Temperature of the backward pass of `paint_soft`.
        max_words: Longest answer in tokens.
        wording: Wording of questions and answers; see `geneval_reward.judges.qa_for`.

    Raises:
        UsageError: If the model is of another kind, or a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        guidance: float = 5.0,
        tau: float = 1.0,
        max_words: int = 100,
        wording: Wording = "plain",
    ) -> None:
        if isinstance(model, str):
            transformers: Any = require("transformers", "diffusers", "model")
            processor = processor or transformers.AutoProcessor.from_pretrained(model)
            model = transformers.JanusForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if kind != "janus":
            raise UsageError(f"model: expected a JanusForConditionalGeneration, got {kind!r}")
        if processor is None:
            raise UsageError("processor: expected the model's processor, got None; load it with AutoProcessor")
        if not guidance > 1 or not tau > 0 or max_words < 1:
            raise UsageError(
                f"expected guidance > 1, tau > 0 and max_words >= 1, got {guidance}, {tau} and {max_words}"
            )
        self.model, self.processor = model, processor
        self.guidance, self.tau, self.max_words, self.wording = guidance, tau, max_words, wording
        model.model.vqmodel.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The whole model."""
        network: nn.Module = self.model
        return network

    def ask(self, spec: PromptSpec) -> QA:
        """Make an open question about the record."""
        return qa_for(spec, self.wording)

    # Painting

    @torch.no_grad()
    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> Painted:
        """Draw image tokens one after the other, each picture from its own seed."""
        inputs = read_janus(self.model, self.processor, prompts)
        tokens = draw_janus(self.model, inputs, self.guidance, SeededTokens(seeds))
        log_probs = categorical_log_prob(self._token_logits(inputs, tokens), tokens)
        return Painted(tokens, torch.ones_like(tokens), log_probs)

    def token_log_probs(self, prompts: Sequence[str], painted: Painted) -> Iterator[tuple[Tensor, Tensor]]:
        """Teacher-force all tokens in one pass, which is exact."""
        inputs = read_janus(self.model, self.processor, prompts)
        logits = self._token_logits(inputs, painted.tokens)
        yield categorical_log_prob(logits, painted.tokens), painted.commits == 1

    def paint_soft(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Paint as straight-through one-hot vectors `(n, L, V)`.

        Every token has the gradient of its own Gumbel-softmax; the tokens before it count as given.
        """
        inputs = read_janus(self.model, self.processor, prompts)
        tokens = draw_janus(self.model, inputs, self.guidance, SeededTokens(seeds))
        noise = SeededTokens(seeds)  # the same noise again, token by token
        noisy = torch.stack([noise(None, logits) for logits in self._token_logits(inputs, tokens).unbind(1)], 1)
        soft = (noisy / self.tau).softmax(-1)
        return functional.one_hot(tokens, noisy.shape[-1]) + soft - soft.detach()

    def _token_logits(self, inputs: Any, tokens: Tensor) -> Tensor:
        """Compute the guided logits `(n, L, V)` of all tokens, given those before them."""
        ids, config = inputs["input_ids"], self.model.generation_config
        # As `generate` makes the unconditional half: everything but the marks is padding.
        marks = (ids == config.bos_token_id) | (ids == config.generation_kwargs["boi_token_id"])
        both = torch.cat([ids, ids.where(marks, config.pad_token_id)])
        before = self.model.prepare_embeddings_for_image_generation(tokens[:, :-1]).repeat(2, 1, 1)
        mask = inputs["attention_mask"].repeat(2, 1)
        mask = functional.pad(mask, (0, before.shape[1]), value=1)
        embedded = torch.cat([self.model.get_input_embeddings()(both), before], 1)
        states = self.model.model.language_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        towards, without = self.model.model.generation_head(states[:, ids.shape[1] - 1 :]).float().chunk(2)
        guided: Tensor = without + self.guidance * (towards - without)
        return guided

    # Pictures

    def images(self, tokens: Tensor) -> list[Tensor]:
        """Decode integer tokens to uint8 images `(3, h, w)`."""
        return list((self._pixels(tokens) * 255).round().to(torch.uint8))

    def _pixels(self, tokens: Tensor) -> Tensor:
        """Decode tokens or one-hot vectors to pixels `(n, 3, h, w)` in [0, 1]."""
        vq = self.model.model.vqmodel
        table = vq.quantize.embedding.weight
        entries = tokens @ table if tokens.is_floating_point() else table[tokens]
        # As `get_codebook_entry`, which takes integers only.
        grid = functional.normalize(entries, p=2, dim=-1).unflatten(1, vq.quantize.quant_state_dims)
        decoded = vq.decoder(vq.post_quant_conv(grid.permute(0, 3, 1, 2)))
        mean, std = self._scale(decoded)
        pixels: Tensor = (decoded * std + mean).clamp(0, 1)
        return pixels

    def _seen(self, tokens: Tensor) -> Tensor:
        """Prepare decoded tokens for SigLIP: its size and its scale."""
        pixels, size = self._pixels(tokens), self.model.config.vision_config.image_size
        if pixels.shape[2:] != (size, size):
            pixels = functional.interpolate(
                pixels, size=(size, size), mode="bicubic", antialias=True, align_corners=False
            )
        mean, std = self._scale(pixels)
        return (pixels - mean) / std

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shown = self.processor.image_processor
        mean, std = (torch.tensor(value).view(1, 3, 1, 1).to(like) for value in (shown.image_mean, shown.image_std))
        return mean, std

    # Answering

    def answer_log_probs(
        self, tokens: Tensor, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Teacher-force answers and their end mark behind picture and question.

        An answer is tokenised anew from its text, also one that the model drew.
        """
        if not len(tokens) == len(questions) == len(answers):
            raise UsageError(
                f"answers: expected one question and answer per picture ({len(tokens)}), got {len(questions)} and {len(answers)}"
            )
        asked, tokenizer = self._ask(questions), self.processor.tokenizer
        said = tokenizer(
            [answer + tokenizer.eos_token for answer in answers],
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        ).to(self.model.device)
        ids = torch.cat([asked["input_ids"], said["input_ids"]], 1)
        mask = torch.cat([asked["attention_mask"], said["attention_mask"]], 1)
        count = said["input_ids"].shape[1]
        logits = self.model(
            input_ids=ids, attention_mask=mask, pixel_values=self._seen(tokens), logits_to_keep=count + 1
        ).logits[:, :-1]
        return categorical_log_prob(logits.float(), said["input_ids"]), said["attention_mask"].bool()

    @torch.no_grad()
    def answer(self, tokens: Tensor, questions: Sequence[str], seeds: Sequence[int] | None = None) -> list[str]:
        """Answer from the decoded pictures; `generate` would drop the seeds, so the loop is here."""
        asked, tokenizer = self._ask(questions), self.processor.tokenizer
        draw = None if seeds is None else SeededTokens(seeds)
        mask = asked["attention_mask"]
        step: dict[str, Any] = {"input_ids": asked["input_ids"], "pixel_values": self._seen(tokens)}
        cache, said = None, list[Tensor]()
        going = torch.ones(len(questions), dtype=torch.bool, device=mask.device)
        for _ in range(self.max_words):
            out = self.model(**step, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits, cache = out.logits[:, -1].float(), out.past_key_values
            words = (logits if draw is None else draw(None, logits)).argmax(-1)
            words = words.where(going, tokenizer.eos_token_id)
            said.append(words)
            going &= words != tokenizer.eos_token_id
            if not going.any():
                break
            mask = functional.pad(mask, (0, 1), value=1)
            step = {"input_ids": words[:, None]}
        texts: list[str] = tokenizer.batch_decode(torch.stack(said, 1), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _ask(self, questions: Sequence[str]) -> Any:
        """Convert questions to ids, padded on the left, with the places of the picture in front of each."""
        content = [[{"type": "image"}, {"type": "text", "text": question}] for question in questions]
        chats = self.processor.apply_chat_template(
            [[{"role": "user", "content": one}] for one in content], add_generation_prompt=True
        )
        shown = self.processor
        places = shown.image_start_token + shown.image_token * shown.num_image_tokens + shown.image_end_token
        texts = [chat.replace(shown.image_token, places) for chat in chats]
        return shown.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(self.model.device)
