"""The pocket model's words: a tokenizer that knows about forty, and a two-layer transformer that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.generic import ModelOutput

from geneval_reward.pocket.scene import POCKET_CLASSES
from geneval_reward.prompts import COLORS, RELATIONS
from geneval_reward.prompts.wording import plural

MAX_WORDS: Final = 12
"""Every prompt is cut or padded to so many words; the longest of the benchmark's forms has eleven."""

_PUNCTUATION: Final = Regex(r"[.,;:!?\"'()\[\]]+")

PAD: Final = "[PAD]"
UNKNOWN: Final = "[UNK]"


def vocabulary() -> list[str]:
    """All words of the pocket world's prompts, in a fixed order, after the two special ones."""
    phrases = ["a an photo of and two three four", *COLORS, *RELATIONS]
    phrases += [form for name in POCKET_CLASSES for form in (name, plural(name))]
    return list(dict.fromkeys([PAD, UNKNOWN, *" ".join(phrases).split()]))


def make_tokenizer() -> PocketTokenizer:
    """A tokenizer of whole words in lower case; punctuation is left out, other words become `[UNK]`."""
    words = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(_PUNCTUATION, " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PocketTokenizer(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=MAX_WORDS,
        padding_side="right",
        truncation_side="right",
    )


class PocketTokenizer(PreTrainedTokenizerFast):
    """A plain fast tokenizer; a class of its own, so that saved pipelines name it alike under every transformers version."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012


class PocketTextConfig(PretrainedConfig):
    """Sizes of `PocketTextEncoder`."""

    model_type = "geneval_pocket_text"

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        max_words: int = MAX_WORDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.max_words = max_words


@dataclass
class PocketTextOutput(ModelOutput):
    """What the text encoder returns.

    Attributes:
        last_hidden_state: One vector a word, `(n, MAX_WORDS, hidden_size)`; zeros where there is none.
        text_embeds: One vector a prompt, `(n, hidden_size)`.
    """

    last_hidden_state: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class PocketTextEncoder(PreTrainedModel):
    """Reads a prompt: word and place embeddings, then a small transformer over the words that are there."""

    config_class = PocketTextConfig
    base_model_prefix = "text"

    def __init__(self, config: PocketTextConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width)
        self.places = nn.Embedding(config.max_words, width)
        layer = nn.TransformerEncoderLayer(
            width, config.num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> PocketTextOutput:
        """Read prompts.

        Args:
            input_ids: Word numbers `(n, MAX_WORDS)`.
            attention_mask: 1 where there is a word, 0 where there is none; same shape.

        Returns:
            A vector a word and a vector a prompt. An empty prompt gives zeros as words, and one fixed vector.
        """
        there = attention_mask.bool()
        # An empty prompt attends to its first padding: a softmax over nothing would be NaN.
        attended = there.clone()
        attended[:, 0] = True
        hidden = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        hidden = self.norm(self.layers(hidden, src_key_padding_mask=~attended))
        hidden = hidden * there[..., None]
        pooled = hidden.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        return PocketTextOutput(last_hidden_state=hidden, text_embeds=self.project(pooled))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 * 16)
