"""The pocket model's words: a tokenizer of whole words, and how a T5 encoder's output becomes SD3's two text inputs."""

from __future__ import annotations

from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from geneval_reward.pocket.scene import POCKET_CLASSES
from geneval_reward.prompts import COLORS, RELATIONS
from geneval_reward.prompts.wording import plural

MAX_WORDS: Final = 11
"""The longest of the benchmark's prompts about pocket classes has eleven words; further words are cut."""

MAX_TOKENS: Final = MAX_WORDS + 1
"""Every prompt is padded to this many tokens: its words and T5's end-of-sequence token."""

_PUNCTUATION: Final = Regex(r"[.,;:!?\"'()\[\]]+")

PAD: Final = "<pad>"
END: Final = "</s>"
UNKNOWN: Final = "<unk>"


def vocabulary() -> list[str]:
    """All words of the pocket world's prompts in a fixed order, after T5's three special tokens."""
    phrases = ["a an photo of and two three four", *COLORS, *RELATIONS]
    phrases += [form for name in POCKET_CLASSES for form in (name, plural(name))]
    return list(dict.fromkeys([PAD, END, UNKNOWN, *" ".join(phrases).split()]))


def make_tokenizer() -> PocketTokenizer:
    """A tokenizer of whole words in lower case; it drops punctuation, and other words become `<unk>`.

    Like T5's, it closes every text with `</s>`, so that an empty text still has one token.
    """
    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(_PUNCTUATION, " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, ids[END])]
    )
    return PocketTokenizer(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        truncation_side="right",
    )


class PocketTokenizer(PreTrainedTokenizerFast):
    """A plain fast tokenizer; it has its own class so that saved pipelines name it alike under every transformers version."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012


def encode_text(
    text_encoder: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode tokens for `SD3Transformer2DModel`.

    Args:
        text_encoder: A `T5EncoderModel`.
        input_ids: Tokens `(n, length)`, each row closed by `</s>`.
        attention_mask: 1 for tokens and 0 for padding; same shape.

    Returns:
        Vectors per token `(n, length, d_model)`, zero at padding, and one vector per prompt `(n, d_model)`: the state at
        `</s>`, where CLIP takes its pooled vector too. It knows the order of the words, which a mean over them would not.
    """
    hidden = text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    hidden = hidden * attention_mask[..., None].to(hidden.dtype)
    last = attention_mask.sum(1) - 1
    return hidden, hidden[torch.arange(len(hidden), device=hidden.device), last]
