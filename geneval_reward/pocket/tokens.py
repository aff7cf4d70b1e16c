"""`PocketTokens`: one transformer over discrete scene codes that paints what a text says and answers questions about codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from geneval_reward.errors import UsageError
from geneval_reward.pocket.codes import BOOK, LENGTH, LEVELS, MASK, SPANS, check, decode, draw
from geneval_reward.pocket.painting import LevelState, Painting, draw_codes, gumbel_noise, masked_decode, one_each
from geneval_reward.pocket.scene import Scene
from geneval_reward.pocket.token_words import END, MAX_WORDS, PAD, TEXT_LENGTH, number_words, vocabulary
from geneval_reward.pocket.transformer import TokenTransformer

_BEHIND = 2 * TEXT_LENGTH - 1


class PocketTokens:
    """Paints scenes of the pocket world as 18 codes, and answers questions about codes with the same weights.

    Text before the codes is causal, the codes attend to it and to one another, and words after them attend to all codes, as in
    Show-o (arXiv 2408.12528). Answers are based on the codes alone, without the prompt.

    It can be called like a diffusers pipeline, so `DiffusersGenerator`, `sweep` and the callback accept it directly.

    Args:
        transformer: The network, which holds all weights of the model.

    Examples:
        >>> from geneval_reward.pocket import load_tokens
        >>> model = load_tokens()
        >>> painted = model.paint(["a photo of a red clock"], [torch.Generator().manual_seed(0)], steps=8)
        >>> model.images(painted.codes)[0].size
        (256, 256)
        >>> len(model.answer(painted.codes, ["what is the main item"]))
        1
    """

    def __init__(self, transformer: TokenTransformer | None = None) -> None:
        self.words = vocabulary()
        self.transformer = transformer or TokenTransformer(len(self.words), TEXT_LENGTH, _BEHIND)

    @property
    def components(self) -> dict[str, torch.nn.Module]:
        """The network by name, as in diffusers pipelines."""
        return {"transformer": self.transformer}

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.transformer.code_head.device

    def to(self, device: torch.device | str) -> PocketTokens:
        """Move the network, and return the model."""
        self.transformer.to(device)
        return self

    # Painting

    def read(self, prompts: Sequence[str], name: str = "prompts") -> Tensor:
        """Convert prompts to word numbers; see `geneval_reward.pocket.token_words.number_words`.

        Args:
            prompts: Texts of at most eleven known words. An empty text asks for any scene.
            name: Their name in messages.

        Returns:
            `(n, 12)` int64: the words, `</s>`, and padding.

        Raises:
            TypeError: If a prompt is not text, or `prompts` is a single string.
        """
        return number_words(prompts, name).to(self.device)

    def logits(self, text: Tensor, codes: Tensor, guidance: float = 1.0) -> Tensor:
        """Compute the logits of every code given the known codes, with gradient.

        Args:
            text: `(n, 12)` from `read`.
            codes: `(n, 18)` integers with `MASK` (128) where a code is not known, or weights `(n, 18, 129)` over the codes
                and the mask, or `(n, 18, 128)` over the codes alone, through which gradient flows.
            guidance: 1 is none, as in diffusers; Show-o's weight w is `guidance - 1`. Otherwise the network runs twice.

        Returns:
            `(n, 18, 128)` float32, meaningful only at masked positions; the network was not trained at known ones.
        """
        if not codes.is_floating_point():
            check(codes)
        count = text.shape[1]
        if guidance == 1:
            return self.transformer.code_logits(self.transformer(text, codes)[:, count:]).float()
        empty = torch.full_like(text, PAD)
        empty[:, 0] = END
        states = self.transformer(torch.cat([text, empty]), torch.cat([codes, codes]))
        towards, without = self.transformer.code_logits(states[:, count:]).float().chunk(2)
        return without + guidance * (towards - without)

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        steps: int = 16,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        choice_noise: float = 1.0,
    ) -> Painting:
        """Paint by masked decoding with the cosine schedule, as in Show-o.

        In step s of S all unknown codes are drawn, and those with the lowest `log p + choice_noise * Gumbel` are masked again,
        so that `floor(18 cos(pi s / 2 S))` stay unknown. Step s multiplies the noise weight by `1 - s / S`.

        Args:
            prompts: Texts.
            generators: One per prompt, on the CPU. An image depends on its own generator and prompt alone.
            steps: >= 1; from 18 on every step fixes one code.
            guidance: See `logits`.
            temperature: Logits are divided by it when codes are drawn; 0 takes the most likely.
            top_k: Number of most likely codes that can be drawn; 0: all. Confidence uses the whole distribution.
            choice_noise: Initial weight of the noise in choosing which codes to fix; 0 fixes the most confident.

        Raises:
            UsageError: If an argument is out of range or there are not as many generators as prompts.
            TypeError: If a prompt is not text.
        """
        text = self.read(prompts)
        one_each("generators", generators, len(text))
        painting, _ = masked_decode(
            lambda codes: self.logits(text, codes, guidance),
            generators,
            steps=steps,
            temperature=temperature,
            top_k=top_k,
            choice_noise=choice_noise,
            device=self.device,
        )
        return painting

    def paint_soft(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        steps: int = 16,
        guidance: float = 1.0,
        tau: float = 1.0,
        through: Literal["last", "all"] = "last",
        choice_noise: float = 1.0,
    ) -> Tensor:
        """Paint as `paint` does, as straight-through one-hot vectors.

        With the same generators the codes are those of `paint`; the gradient is that of the Gumbel-softmax.

        Args:
            prompts: Texts.
            generators: One per prompt.
            steps: See `paint`.
            guidance: See `logits`.
            tau: Temperature of the softmax in the backward pass.
            through: Whether gradient flows through the codes fixed in the last step alone, or in all steps.
            choice_noise: See `paint`.

        Returns:
            `(n, 18, 128)` float32, one-hot in the forward pass; `logits`, `answer` and `answer_logits` take it.
        """
        text = self.read(prompts)
        one_each("generators", generators, len(text))
        _, soft = masked_decode(
            lambda weights: self.logits(text, weights, guidance),
            generators,
            steps=steps,
            choice_noise=choice_noise,
            through=through,
            tau=tau,
            device=self.device,
        )
        return soft[..., :BOOK]

    # Painting level by level

    def start(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> LevelState:
        """Start painting level by level: call `advance` six times, then `images`. `paint` describes the arguments.

        Returns:
            A state with no level painted. States are never modified: the same one can be advanced again with new generators
            from `LevelState.take`.
        """
        text = self.read(prompts)
        one_each("generators", generators, len(text))
        codes = torch.full((len(text), LENGTH), MASK, device=self.device)
        return LevelState(text, codes, 0, tuple(generators), guidance, temperature, top_k)

    @torch.no_grad()
    def advance(self, state: LevelState) -> LevelState:
        """Paint the next level: all its codes at once, given those of the levels before.

        One level costs one run of the network (two with guidance) over the whole sequence, like one step of `paint`. There is
        no cache: codes attend to one another in both directions, so every level changes all hidden states.

        Raises:
            UsageError: If all six levels are painted.
        """
        if state.level == LEVELS:
            raise UsageError(f"state: expected fewer than {LEVELS} painted levels, got {state.level}; it is finished")
        span = SPANS[state.level]
        logits = self.logits(state.text, state.codes, state.guidance)[:, span]
        gumbel = gumbel_noise(state.generators, span.stop - span.start, BOOK, device=self.device)
        codes = state.codes.clone()
        codes[:, span] = draw_codes(logits, gumbel, state.temperature, state.top_k)
        return replace(state, codes=codes, level=state.level + 1)

    def preview(self, state: LevelState) -> list[Image.Image]:
        """Draw the running sum of the levels painted so far; see `geneval_reward.pocket.codes.running_sum`."""
        return [Image.fromarray(picture) for picture in draw(state.codes, state.level)]

    # Pictures

    def scenes(self, codes: Tensor) -> list[Scene]:
        """Decode codes `(n, 18)` to the scenes that they show."""
        return decode(codes)

    def images(self, codes: Tensor) -> list[Image.Image]:
        """Draw codes `(n, 18)` as RGB images of 256 x 256 pixels."""
        return [Image.fromarray(picture) for picture in draw(codes)]

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int = 16,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        decoding: str = "masked",
        output_type: str = "pil",
    ) -> Any:
        """Make images, with the call signature of a diffusers pipeline.

        Args:
            prompt: One text or several.
            generator: One per image, or one for a single image; None draws a seed from torch's global generator.
            num_inference_steps: Steps of masked decoding; level by level there are always six.
            guidance_scale: Guidance; 1 is none.
            temperature: See `paint`.
            top_k: See `paint`.
            decoding: `masked` or `levels`.
            output_type: `pil`, `np` `(n, 256, 256, 3)` in [0, 1], or `latent`: codes `(n, 18)`.

        Returns:
            An object with `images`.

        Raises:
            UsageError: If an argument is out of range.
            TypeError: If a prompt is not text.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if generator is None:
            seeds = torch.randint(2**62, (len(prompts),)).tolist()
            generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
        if output_type not in ("pil", "np", "latent"):
            raise UsageError(f"output_type: expected pil, np or latent, got {output_type!r}")
        sampling: dict[str, Any] = {"guidance": guidance_scale, "temperature": temperature, "top_k": top_k}
        if decoding == "masked":
            codes = self.paint(prompts, generators, steps=num_inference_steps, **sampling).codes
        elif decoding == "levels":
            state = self.start(prompts, generators, **sampling)
            for _ in range(LEVELS):
                state = self.advance(state)
            codes = state.codes
        else:
            raise UsageError(f"decoding: expected masked or levels, got {decoding!r}")
        if output_type == "latent":
            return SimpleNamespace(images=codes)
        if output_type == "np":
            return SimpleNamespace(images=draw(codes).astype("float32") / 255)
        return SimpleNamespace(images=self.images(codes))

    # Answering

    def answer_logits(self, codes: Tensor, questions: Sequence[str], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Compute the logits of given answers, word by word, with gradient.

        Args:
            codes: `(n, 18)` integers, or weights `(n, 18, 128 or 129)` as `paint_soft` gives them.
            questions: One per picture, at most eleven words.
            answers: One per picture, at most ten words.

        Returns:
            Logits `(n, 11, words)` float32 and the numbers of the answers' words `(n, 11)`, closed by `</s>` (1) and padded
            with 0. `cross_entropy(logits.mT, numbers, ignore_index=0)` is the loss.
        """
        one_each("answers", answers, len(questions))
        behind, starts = self._ask(codes, questions)
        said = self.read(answers, "answers")[:, :MAX_WORDS]
        places = starts[:, None] + torch.arange(MAX_WORDS, device=self.device)
        behind = behind.scatter(1, (places + 1).clamp_max(_BEHIND - 1), said)
        states = self.transformer(None, codes, behind)[:, LENGTH:]
        states = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
        return self.transformer.word_head(states).float(), said

    @torch.no_grad()
    def answer(
        self,
        codes: Tensor,
        questions: Sequence[str],
        generators: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
    ) -> list[str]:
        """Answer questions about pictures given as codes, without their prompts.

        Args:
            codes: `(n, 18)` integers, or weights over codes.
            questions: One per picture; see `geneval_reward.pocket.questions`.
            generators: One per question, to draw words; None takes the most likely word each time.
            temperature: Logits are divided by it when words are drawn.

        Returns:
            One text per question, at most eleven words; it may be empty.
        """
        if generators is not None:
            one_each("generators", generators, len(questions))
        asked, at = self._ask(codes, questions)
        texts: list[list[str]] = [[] for _ in questions]
        if not texts:
            return []
        memory = self.transformer.remember(codes, _BEHIND)
        length = int(at.max()) + 1
        places = torch.arange(length, device=self.device).expand(len(texts), -1)
        states = self.transformer.read_on(asked[:, :length], places, memory)
        states = states[torch.arange(len(texts), device=self.device), at]
        rows = list(range(len(texts)))  # those that have not ended
        for _ in range(MAX_WORDS):
            logits = self.transformer.word_head(states).float()
            logits[:, PAD] = -math.inf
            if generators is not None:
                noise = gumbel_noise([generators[row] for row in rows], len(self.words), device=self.device)
                logits = logits / temperature + noise
            words = logits.argmax(-1)
            left = (words != END).nonzero()[:, 0]
            if not len(left):
                break
            rows, words, at = [rows[index] for index in left.tolist()], words[left], at[left] + 1
            for row, word in zip(rows, words.tolist(), strict=True):
                texts[row].append(self.words[word])
            memory = [(keys[left], values[left]) for keys, values in memory]
            # Nothing is read from the place after the last word, so it may be any place that there is.
            states = self.transformer.read_on(words[:, None], at[:, None].clamp_max(_BEHIND - 1), memory)[:, 0]
        return [" ".join(text) for text in texts]

    def _ask(self, codes: Tensor, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the questions' words with room for answers, and the position of each question's end."""
        if not codes.is_floating_point():
            check(codes)
        one_each("questions", questions, len(codes))
        asked = self.read(questions, "questions")
        return functional.pad(asked, (0, _BEHIND - TEXT_LENGTH), value=PAD), (asked != PAD).sum(1) - 1
