"""`TokenGenerator`: `transformers` models that generate an image as tokens, with one seed per image."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from geneval_reward.errors import FileError, UsageError
from geneval_reward.generate.batches import Batches
from geneval_reward.generate.callable import as_pil
from geneval_reward.generate.tokens import SeededTokens
from geneval_reward.results.generator_notes import GeneratorNotes
from geneval_reward.support.files import read_json
from geneval_reward.support.imports import require


class TokenGenerator:
    """Makes images with Janus, Janus-Pro or Emu3, in batches, each from its own seed.

    `transformers` samples with one global generator, so an image made in a batch differs from one made alone. Here, guidance
    is applied first, then the restriction to tokens allowed at this position, then `SeededTokens`; decoding is greedy.

    If memory runs out, the batch is halved for good, and the images are made again from the same seeds. In half precision,
    the logits of a batch differ from those of a single image in the last bits, which can change the draw between two almost
    equally likely tokens; in float32, images do not depend on the batch.

    Args:
        model: A `JanusForConditionalGeneration` or `Emu3ForConditionalGeneration`.
        processor: The model's processor.
        guidance: Scale of classifier-free guidance, > 1; None uses that of the authors' scripts: 5 for Janus, 3 for Emu3.
        temperature: Sampling temperature, > 0.
        top_k: Number of the most likely tokens that can be drawn, 0 for all; None takes 0 for Janus and 2048 for Emu3.
        template: The text around every prompt, with `{prompt}`; Emu3's script adds ` masterpiece, film grained, best quality.`
        negative_prompt: The text that guidance steers away from; Emu3 only. Empty by default, although Emu3's script has one.
        batch_size: Largest number of images per call, >= 1.
        **image: For Emu3, `ratio` and `image_area` of its processor; its defaults are `ratio="1:1", image_area=518400`.

    Raises:
        UsageError: If the model is of another kind, or an argument is not valid.

    Source:
        deepseek-ai/Janus `generation_inference.py` (guidance 5, temperature 1, no top-k); baaivision/Emu3
        `image_generation.py` (guidance 3, top-k 2048, 720 x 720 pixels).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        guidance: float | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        template: str | None = None,
        negative_prompt: str | None = None,
        batch_size: int = 4,
        **image: Any,
    ) -> None:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if kind not in TOKEN_MODELS:
            raise UsageError(
                f"model: expected one of {', '.join(TOKEN_MODELS)}, got {kind!r}; write a function and use CallableGenerator"
            )
        draw, default_guidance, default_top_k = TOKEN_MODELS[kind]
        self.guidance = default_guidance if guidance is None else guidance
        if not self.guidance > 1:
            raise UsageError(f"guidance: expected a number > 1, got {guidance!r}; these models always make two passes")
        if template is not None and "{prompt}" not in template:
            raise UsageError(f"template: expected text with {{prompt}} in it, got {template!r}")
        if kind == "janus" and (negative_prompt is not None or image):
            name = "negative_prompt" if negative_prompt is not None else next(iter(image))
            raise UsageError(f"{name}: expected it to be left out for Janus, got one; it has no place for it")
        self.temperature = temperature
        self.top_k = default_top_k if top_k is None else top_k
        SeededTokens([], temperature=temperature, top_k=self.top_k)
        self.notes = GeneratorNotes(template, negative_prompt)
        self.model = model
        self.processor = processor
        self.image = image
        self._draw = draw
        self._batches = Batches(self._call, batch_size)

    @property
    def batch_size(self) -> int:
        """Largest number of images per call; smaller than asked for once memory has run out."""
        return self._batches.batch_size

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer in `[0, 2**63)` per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            ImageError: If an image has NaN or infinite pixels.
            UsageError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not text.
        """
        return self._batches.run(prompts, seeds)

    @torch.inference_mode()
    def _call(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        texts = [(self.notes.template or "{prompt}").replace("{prompt}", prompt) for prompt in prompts]
        pixels = self._draw(self, texts, SeededTokens(seeds, temperature=self.temperature, top_k=self.top_k))
        shown = self.processor.image_processor
        mean, std = (
            torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in (shown.image_mean, shown.image_std)
        )
        # The processor's own conversion would turn NaN into black images.
        images = (pixels.float() * std + mean).clamp(0, 1)
        return as_pil(images, len(prompts), "model", lambda index: f" (prompt {prompts[index]!r}, seed {seeds[index]})")


def read_janus(model: Any, processor: Any, texts: Sequence[str]) -> Any:
    """Convert texts to the inputs from which Janus generates images: `input_ids` and `attention_mask`, padded on the left."""
    if not hasattr(model.generation_config, "generation_kwargs"):
        # Checkpoints that were re-saved may have lost it.
        begin = processor.tokenizer.convert_tokens_to_ids(processor.image_start_token)
        model.generation_config.generation_kwargs = {"boi_token_id": begin}
    chats = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]
    chats = processor.apply_chat_template(chats, add_generation_prompt=True)
    return processor(text=chats, generation_mode="image", padding=True, return_tensors="pt").to(model.device)


def draw_janus(model: Any, inputs: Any, guidance: float, sample: SeededTokens) -> Tensor:
    """Draw image tokens `(n, L)` with Janus, one seed per image.

    Args:
        model: A `JanusForConditionalGeneration`.
        inputs: From `read_janus`.
        guidance: Scale of classifier-free guidance, > 1.
        sample: The seeds.
    """
    from transformers import LogitsProcessorList
    from transformers.generation.logits_process import ClassifierFreeGuidanceLogitsProcessor

    tokens: Tensor = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_mode="image",
        do_sample=False,
        # The model's own guidance would come after the noise; 1 turns it off.
        guidance_scale=1.0,
        logits_processor=LogitsProcessorList([ClassifierFreeGuidanceLogitsProcessor(guidance), sample]),
    )
    return tokens


def _draw_janus(generator: TokenGenerator, texts: list[str], sample: SeededTokens) -> Tensor:
    model = generator.model
    tokens = draw_janus(model, read_janus(model, generator.processor, texts), generator.guidance, sample)
    pixels: Tensor = model.decode_image_tokens(tokens).permute(0, 3, 1, 2)
    return pixels


def _draw_emu3(generator: TokenGenerator, texts: list[str], sample: SeededTokens) -> Tensor:
    from transformers import LogitsProcessorList

    model, processor = generator.model, generator.processor
    options = {
        "padding": True,
        "padding_side": "left",
        "return_tensors": "pt",
        "return_for_image_generation": True,
        **generator.image,
    }
    inputs = processor(text=texts, **options)
    negative = processor(text=[generator.notes.negative_prompt or ""] * len(texts), **options)
    height, width = map(int, inputs["image_sizes"][0])
    ids = inputs["input_ids"].to(model.device)
    tokens = model.generate(
        input_ids=ids,
        attention_mask=inputs["attention_mask"].to(model.device),
        negative_prompt_ids=negative["input_ids"].to(model.device),
        negative_prompt_attention_mask=negative["attention_mask"].to(model.device),
        guidance_scale=generator.guidance,
        max_new_tokens=height * (width + 1) + 3,
        do_sample=False,
        # `generate` applies its guidance before these.
        logits_processor=LogitsProcessorList([Emu3Layout(model, processor, ids.shape[1], height, width), sample]),
    )
    pixels: Tensor = model.decode_image_tokens(image_tokens=tokens[:, ids.shape[1] :], height=height, width=width)
    return pixels


class Emu3Layout:
    """A logits processor that enforces Emu3's layout: rows of image tokens with line ends, then three end marks.

    Args:
        model: The model, for its vocabulary.
        processor: The processor, whose tokenizer knows the marks.
        start: Number of tokens before the image.
        height: Rows of image tokens.
        width: Image tokens per row.
    """

    def __init__(self, model: Any, processor: Any, start: int, height: int, width: int) -> None:
        tokenizer = processor.tokenizer
        self.start, self.height, self.width = start, height, width
        self.image = torch.tensor(sorted(model.model.vocabulary_mapping.image_tokens), device=model.device)
        self.line_end = int(tokenizer.convert_tokens_to_ids("<|extra_200|>"))
        names = (processor.eof_token, processor.image_end_token, tokenizer.eos_token)
        self.ends = [int(tokenizer.convert_tokens_to_ids(name)) for name in names]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set the scores `(rows, vocabulary)` of tokens that are not allowed to minus infinity."""
        place = input_ids.shape[1] - self.start
        after = place - self.height * (self.width + 1)
        if after >= 0:
            allowed: Any = self.ends[min(after, len(self.ends) - 1)]
        else:
            allowed = self.line_end if (place + 1) % (self.width + 1) == 0 else self.image
        masked = torch.full_like(scores, float("-inf"))
        masked[:, allowed] = scores[:, allowed]
        return masked


TOKEN_MODELS: Final[dict[str, tuple[Callable[[TokenGenerator, list[str], SeededTokens], Tensor], float, int]]] = {
    "janus": (_draw_janus, 5.0, 0),
    "emu3": (_draw_emu3, 3.0, 2048),
}
"""By `model_type`: how tokens are drawn, and the guidance and top-k of the authors' scripts."""


IMAGE_ARGUMENTS: Final = ("ratio", "image_area")
"""Arguments of Emu3's processor that decide the size of the image."""


def token_model_type(name: str) -> str | None:
    """Find which of `TOKEN_MODELS` a folder or a name on a model hub holds; None for anything else.

    Args:
        name: A folder with `config.json`, or `owner/name`, from which only that file is fetched.
    """
    file: Path | str | None = Path(name) / "config.json"
    if not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = hf_hub_download(name, "config.json")
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            return None
    try:
        kind = read_json(str(file)).get("model_type")
    except (OSError, FileError, AttributeError):
        return None
    return kind if kind in TOKEN_MODELS else None


def load_token_model(
    name: str, *, device: torch.device, dtype: torch.dtype | None = None, **arguments: Any
) -> TokenGenerator:
    """Load a model and its processor.

    Args:
        name: A folder, or a name on a model hub, such as `deepseek-community/Janus-Pro-1B` or `BAAI/Emu3-Gen-hf`.
        device: Where to load it.
        dtype: Its precision; None keeps that of the saved weights.
        **arguments: See `TokenGenerator`.
    """
    taken = inspect.signature(TokenGenerator.__init__).parameters
    for argument in arguments:
        if argument not in (*taken, *IMAGE_ARGUMENTS):
            raise UsageError(
                f"{argument}: expected an argument of TokenGenerator, such as guidance or top_k, got one that it does not take"
            )
    transformers: Any = require("transformers", "diffusers", "model")
    kind = token_model_type(name)
    processor = transformers.AutoProcessor.from_pretrained(name)
    model = {
        "janus": transformers.JanusForConditionalGeneration,
        "emu3": transformers.Emu3ForConditionalGeneration,
    }[str(kind)].from_pretrained(name, dtype=dtype or "auto")
    return TokenGenerator(model.to(device).eval(), processor, **arguments)
