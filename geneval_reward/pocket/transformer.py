"""The transformer of the pocket token model: causal text, bidirectional image codes, then causal words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward.pocket.codes import BOOK, LENGTH, LEVEL_OF, LEVELS, MASK, SPANS

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values `(n, heads, 18 + room, width / heads)` of each block."""


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

    def remember(self, codes: Tensor, room: int) -> Memory:
        """Read codes without text, and make room for words behind them; `read_on` then reads each word once.

        Codes do not attend to the words behind them, so what they leave in attention never changes.

        Args:
            codes: As for `forward`.
            room: Number of words that may follow.

        Returns:
            Keys and values per block.
        """
        states = self._embed_codes(codes) + self.code_places
        memory = []
        block: Any
        for block in self.blocks:
            states, keys, values = block.step(states)
            memory.append((functional.pad(keys, (0, 0, 0, room)), functional.pad(values, (0, 0, 0, room))))
        return memory

    def read_on(self, words: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """Read words behind the codes; all earlier places must have been read, and later ones are not seen.

        Args:
            words: `(n, t)` word numbers.
            places: `(n, t)` their places behind the codes, from 0.
            memory: From `remember`; keys and values of the words are written into it.

        Returns:
            States `(n, t, width)`, as `forward` computes them.
        """
        states = self.words(words) + self.behind_places[places]
        slots = places + LENGTH
        seen = torch.arange(memory[0][0].shape[2], device=slots.device) <= slots[:, None, :, None]
        block: Any
        for block, (keys, values) in zip(self.blocks, memory, strict=True):
            states, _, _ = block.step(states, seen, (keys, values, slots))
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
        return self.step(states, mask)[0]

    def step(
        self, states: Tensor, mask: Tensor | None = None, memory: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new states, and the keys and values that were attended to.

        With a memory (keys, values, slots `(n, t)`), the states' own keys and values are written into its slots first.
        """
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(states)).chunk(3, 2)
        )
        if memory is not None:
            keys, values, slots = memory
            index = slots[:, None, :, None].expand_as(key)
            key, value = keys.scatter_(2, index, key), values.scatter_(2, index, value)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        states = states + self.out(mixed.transpose(1, 2).flatten(2))
        stepped: Tensor = states + self.down(functional.gelu(self.up(self.mlp_norm(states))))
        return stepped, key, value
