"""`LocalModel`: any transformers image-text model in this process, with one vision pass per image and no sampling."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torchvision.transforms.functional import to_pil_image

from geneval_reward.errors import UsageError, WeightsError
from geneval_reward.judges.questions import NUMBERS
from geneval_reward.support.imports import require
from geneval_reward.support.inference import no_autocast
from geneval_reward.vision.backends import resolve_device
from geneval_reward.vision.names import PRECISIONS

_MARK: Final = "\ue000question\ue000"  # a private character, which no chat template contains
_DTYPES: Final = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LocalModel:
    """An image-text model with its processor.

    All questions about an image share one pass over the image and the text before them: the keys and values of this prefix
    are cached, and the questions follow as one batch. Padding at their ends is never attended to, so every answer is the
    same as if the question were asked alone.

    Args:
        model: A model of `AutoModelForImageTextToText`.
        processor: Its processor, whose chat template puts the image before the text.
        name: Its name in the fingerprint.
        forms: Which tokens count as an answer. `corrected`: the distinct first tokens of the ways to write it, except those
            that are blank or begin another answer. `released`: all of them, as GenEval 2's script sums them; a digit after a
            blank then adds the probability of the blank itself.
        template: For a model without a chat template: its prompt with the image token and `{}` for the question.
        batch_size: Questions, or requests, per forward pass.
        max_tokens: Maximum number of tokens that `write` generates.

    Raises:
        UsageError: If there is no chat template, or it does not put the image before the question.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str = "local",
        forms: Literal["corrected", "released"] = "corrected",
        template: str | None = None,
        batch_size: int = 16,
        max_tokens: int = 512,
    ) -> None:
        if forms not in ("corrected", "released"):
            raise UsageError(f"forms: expected 'corrected' or 'released', got {forms!r}")
        if batch_size < 1:
            raise UsageError(f"batch_size: expected an integer >= 1, got {batch_size}")
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name
        self.forms, self.template, self.batch_size, self.max_tokens = forms, template, batch_size, max_tokens
        self._lock = threading.Lock()
        self.head, self.tail = self._frame()

    @classmethod
    def from_pretrained(
        cls, path: str, *, device: torch.device | str = "auto", precision: str = "auto", **options: Any
    ) -> LocalModel:
        """Load a model.

        Args:
            path: A folder or hub name.
            device: A torch device or `auto`.
            precision: `auto` (bf16 on CUDA, fp32 on the CPU), `fp32`, `fp16` or `bf16`.
            **options: Arguments of the class.

        Raises:
            WeightsError: If the model cannot be loaded.
        """
        require("transformers", "judges", "judge")
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if precision not in PRECISIONS:
            raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        place = resolve_device(device)
        dtype = _DTYPES.get(precision, torch.bfloat16 if place.type == "cuda" else torch.float32)
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
            processor = AutoProcessor.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{path}: expected an image-text model of transformers, got {type(error).__name__}: {error}"
            ) from error
        return cls(model.to(place), processor, name=path, **options)

    def probabilities(
        self, image: torch.Tensor, questions: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Ask all questions about one image; see `ImageTextModel.probabilities`."""
        wanted = [self._tokens(tuple(words)) for words in choices]
        with self._lock, torch.inference_mode(), no_autocast():
            logits = self._logits(image, questions)
        rows = logits.float().softmax(-1).cpu()
        return [[float(row[ids].sum()) for ids in tokens] for row, tokens in zip(rows, wanted, strict=True)]

    def write(self, requests: Sequence[tuple[Sequence[torch.Tensor], str]], system: str = "") -> list[str]:
        """Answer requests greedily, in left-padded batches; see `ImageTextModel.write`."""
        found: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            part = requests[start : start + self.batch_size]
            texts = [self._chat(text, len(images), system) for images, text in part]
            pictures = [[to_pil_image(image) for image in images] for images, _ in part]
            inputs = self.processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
            with self._lock, torch.inference_mode(), no_autocast():
                inputs = inputs.to(self.model.device, self.model.dtype)
                made = self.model.generate(**inputs, generation_config=self._greedy())
            fresh = made[:, inputs["input_ids"].shape[1] :]
            found += self.processor.batch_decode(fresh, skip_special_tokens=True)
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Return name, class, precision and token forms."""
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "precision": str(self.model.dtype).removeprefix("torch."),
            "forms": self.forms,
        }

    def to(self, device: torch.device | str) -> LocalModel:
        """Move the weights; return the model."""
        with self._lock:
            self.model.to(device)
        return self

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r})"

    def _logits(self, image: torch.Tensor, questions: Sequence[str]) -> torch.Tensor:
        """Compute the logits after each question, `(n, vocabulary)`."""
        inputs = self.processor(text=[self.head], images=[to_pil_image(image)], return_tensors="pt")
        begun = self.model(**inputs.to(self.model.device, self.model.dtype), use_cache=True)
        tokenizer = self.processor.tokenizer
        parts = []
        for start in range(0, len(questions), self.batch_size):
            texts = [question + self.tail for question in questions[start : start + self.batch_size]]
            rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            longest = max(map(len, rows))
            pad = tokenizer.pad_token_id or 0
            tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self.model.device)
            cache = copy.deepcopy(begun.past_key_values)
            cache.batch_repeat_interleave(len(rows))
            # No attention mask is needed: attention is causal, and padding follows a question's last token.
            logits = self.model(input_ids=tokens, past_key_values=cache, use_cache=True).logits
            parts.append(logits[torch.arange(len(rows)), [len(row) - 1 for row in rows]])
        return torch.cat(parts)

    def _frame(self) -> tuple[str, str]:
        """Return the text before and after a question in the model's prompt."""
        whole = self._chat(_MARK, 1)
        head, mark, tail = whole.partition(_MARK)
        image = getattr(self.processor, "image_token", None)
        if not mark or (image is not None and image not in head):
            raise UsageError(
                f"{self.name}: expected a template that puts the image ({image}) before the question, got {whole!r}; give one as "
                "template="
            )
        return head, tail

    def _chat(self, text: str, images: int, system: str = "") -> str:
        if self.template is not None:
            if images != 1:
                raise UsageError(
                    f"template: expected a chat template for {images} images, got one text for a single image"
                )
            return self.template.replace("{}", f"{system}\n{text}" if system else text)
        if getattr(self.processor, "chat_template", None) is None:
            raise UsageError(
                f"{self.name}: expected a processor with a chat template, got none; give template=, the model's own prompt with "
                "the image's mark and {} for the question"
            )
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        chat: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system:
            chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        made: str = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return made

    def _greedy(self) -> Any:
        from transformers import GenerationConfig

        tokenizer = self.processor.tokenizer
        end = self.model.generation_config.eos_token_id
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_tokens,
            pad_token_id=tokenizer.pad_token_id or 0,
            eos_token_id=tokenizer.eos_token_id if end is None else end,
        )

    def _tokens(self, words: tuple[str, ...]) -> list[list[int]]:
        """Return the tokens that count for each answer."""
        tokenizer = self.processor.tokenizer
        firsts = [
            [tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in surface_forms(word)]
            for word in words
        ]
        if self.forms == "released":
            return firsts
        special = set(tokenizer.all_special_ids)
        found = []
        for number, (word, ids) in enumerate(zip(words, firsts, strict=True)):
            others = {token for other, row in enumerate(firsts) if other != number for token in row}
            own = [t for t in dict.fromkeys(ids) if t not in others | special and tokenizer.decode([t]).strip()]
            if not own:
                raise UsageError(
                    f"{self.name}: expected a first token that stands for {word!r} alone, got none; this tokenizer cannot be "
                    "asked for it"
                )
            found.append(own)
        return found


def surface_forms(word: str) -> list[str]:
    """List the ways to write an answer: the word, capitalised, both after a blank, and for numbers the digits likewise.

    Examples:
        >>> surface_forms("yes")
        ['Yes', 'yes', ' Yes', ' yes']
    """
    forms = [word.capitalize(), word]
    forms += [f" {form}" for form in forms]
    if word in NUMBERS:
        digits = str(NUMBERS.index(word))
        forms += [digits, f" {digits}"]
    return forms
