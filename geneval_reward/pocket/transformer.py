"""The transformer of the pocket token model: causal text, bidirectional image codes, then causal words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward.pocket.codes import BOOK, LENGTH, LEVEL_OF, LEVELS, MASK, SPANS


class TokenTransformer(nn.Module):
    """A pre-norm transformer over `text, image codes, words after the image`; only the codes are required.

    Text attends to the text before it, codes to the text and all codes, and the words after the image to everything before
    them, as in Show-o (arXiv 2408.12528).

    Args:
        words: Size of the vocabulary of words; word 0 is padding.
        text_length: Maximum length of the text before the image.
        behind_length: Maximum length of the text after the image.
        width: Width of the token vectors.
        layers: Number of blocks.
        heads: Attention heads per block.
    """

    def __init__(
        self, words: int, text_length: int, behind_length: int, width: int = 96, layers: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.text_places = nn.Parameter(torch.empty(text_length, width))
        self.behind_places = nn.Parameter(torch.empty(behind_length, width))
        self.codes = nn.Parameter(torch.empty(LEVELS, BOOK + 1, width))
        self.code_places = nn.Parameter(torch.empty(LENGTH, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.code_head = nn.Parameter(torch.empty(LEVELS, BOOK, width))
        self.word_head = nn.Linear(width, words, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "blocks" not in name:
                nn.init.normal_(parameter, std=0.05)

    def forward(self, text: Tensor | None, codes: Tensor, behind: Tensor | None = None) -> Tensor:
        """Compute the states of all positions.

        Args:
            text: `(n, <= text_length)` word numbers, padded with 0 on the right; None: no text.
            codes: `(n, 18)` integers with `MASK` for unknown codes, or weights over codes `(n, 18, 128 or 129)`.
            behind: `(n, <= behind_length)` word numbers; None: nothing after the image.

        Returns:
            `(n, text + 18 + behind, width)`.
        """
        parts = [self._embed_codes(codes) + self.code_places]
        before = 0 if text is None else text.shape[1]
        if text is not None:
            parts.insert(0, self.words(text) + self.text_places[:before])
        if behind is not None:
            parts.append(self.words(behind) + self.behind_places[: behind.shape[1]])
        states = torch.cat(parts, 1)
        length = states.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        image = slice(before, before + LENGTH)
        seen[image, image] = True
        mask = seen[None, None]
        if text is not None:
            known = functional.pad(text != 0, (0, length - before), value=True)
            mask = mask & known[:, None, None]
        for block in self.blocks:
            states = block(states, mask)
        normed: Tensor = self.norm(states)
        return normed

    def code_logits(self, states: Tensor) -> Tensor:
        """Compute logits `(n, 18, 128)` of the codes from the states at their positions `(n, 18, width)`."""
        return torch.cat(
            [states[:, span] @ head.mT for span, head in zip(SPANS, self.code_head.unbind(), strict=True)], 1
        )

    def _embed_codes(self, codes: Tensor) -> Tensor:
        if codes.is_floating_point():
            parts = [
                codes[:, span] @ table[: codes.shape[2]] for span, table in zip(SPANS, self.codes.unbind(), strict=True)
            ]
            return torch.cat(parts, 1)
        level = torch.tensor(LEVEL_OF, device=codes.device) * (MASK + 1)
        return functional.embedding(codes + level, self.codes.flatten(0, 1))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(states)).chunk(3, 2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + self.out(mixed.transpose(1, 2).flatten(2))
        stepped: Tensor = states + self.down(functional.gelu(self.up(self.mlp_norm(states))))
        return stepped
