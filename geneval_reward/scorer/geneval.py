"""`GenEvalScorer`: joins vision and judge."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import numpy as np
import torch

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.judge.detections import Detections, Evidence
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict, judge
from geneval_reward.prompts.spec import Exclude, Include, PromptSpec
from geneval_reward.prompts.suite import Prompt, resolve_all
from geneval_reward.prompts.vocabulary import CLASS_NAMES, COLORS, Vocabulary
from geneval_reward.scorer.protocol import fingerprint_id
from geneval_reward.support.devices import to_host
from geneval_reward.support.inference import no_autocast, run_in_batches
from geneval_reward.support.signatures import check_part
from geneval_reward.version import __version__
from geneval_reward.vision.backends import load_backend
from geneval_reward.vision.images import as_images
from geneval_reward.vision.protocols import ColorQuery, Detector, Verifier, Wanted

# So many images, every one of them wrong, point to a broken detector rather than to a bad generator.
_SUSPICIOUS_BATCH: Final = 32


class GenEvalScorer:
    """Judges images in this process.

    A plain object and not an `nn.Module`: a metric or LightningModule that owns one does not see its weights in its
    `state_dict`, optimizers, EMA copies or dtype casts. It may be called from several threads; one call runs at a
    time. `copy.deepcopy` returns the same object. A scorer made by `from_pretrained` pickles as the call that made
    it, and loads its weights again where it is unpickled.

    Args:
        detector: Finds objects; see `geneval_reward.vision.protocols.Detector`.
        verifier: Names colours; None if no record asks for one.
        rules: What `Rules.parse` takes.
        batch_size: Images per forward pass, >= 1. Halved for good when memory runs out.
        min_confidence: Detections at or below it are not kept; lower ones than the rules ask for make smooth credits and
            re-judging with lower thresholds possible. Never above the rules' thresholds.
        all_classes: Whether to keep detections of classes that the record does not name. They never change a verdict.
        name: Name of the backend in results.

    Attributes:
        vocabulary: The classes and colours that it can judge: those of the detector and the verifier.

    Raises:
        UsageError: If a number is out of range, or a method of the detector or the verifier does not take what it will get.

    Examples:
        >>> from geneval_reward import GenEvalScorer
        >>> from geneval_reward.vision.photos import photo
        >>> scorer = GenEvalScorer.from_pretrained("lite", device="cpu")
        >>> verdict = scorer.score([photo("chelsea")], ["a photo of a cat"])[0]
        >>> verdict.correct
        True
    """

    def __init__(
        self,
        detector: Detector,
        verifier: Verifier | None = None,
        *,
        rules: Rules | Mapping[str, Any] | str | None = None,
        batch_size: int = 16,
        min_confidence: float = 0.05,
        all_classes: bool = False,
        name: str = "custom",
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size: expected an integer >= 1, got {batch_size!r}")
        if not 0.0 <= min_confidence <= 1.0:
            raise UsageError(f"min_confidence: expected a number in [0, 1], got {min_confidence!r}")
        check_part("detector", detector, "detect(images, wanted)", "fingerprint()", "to(device)")
        if verifier is not None:
            check_part("verifier", verifier, "colors(queries)", "fingerprint()", "to(device)")
        self.detector = detector
        self.verifier = verifier
        self.vocabulary = Vocabulary(
            tuple(getattr(detector, "class_names", CLASS_NAMES)), tuple(getattr(verifier, "color_names", COLORS))
        )
        self._rows_of: dict[str, list[int]] = {}
        for row, known in enumerate(self.vocabulary.classes):
            self._rows_of.setdefault(known, []).append(row)
        self._colors = frozenset((*self.vocabulary.colors, None))
        self.rules = Rules.parse(rules)
        self.batch_size = batch_size
        self.min_confidence = min(min_confidence, self.rules.confidence, self.rules.counting_confidence)
        self.all_classes = all_classes
        self.name = name
        self._lock = threading.RLock()
        self._recipe: dict[str, Any] | None = None
        self._warned_all_wrong = False

    @classmethod
    def from_pretrained(
        cls,
        backend: str = "lite",
        *,
        device: torch.device | str = "auto",
        precision: str = "auto",
        rules: Rules | Mapping[str, Any] | str | None = None,
        batch_size: int | None = None,
        min_confidence: float = 0.05,
        all_classes: bool = False,
        **options: Any,
    ) -> GenEvalScorer:
        """Load a backend and make its scorer.

        Args:
            backend: `lite`, `paper` or `mmdet`.
            device: A torch device or `auto`.
            precision: `auto`, `fp32`, `tf32`, `fp16` or `bf16`.
            rules: What `Rules.parse` takes, starting from the backend's own profile; None for that profile.
            batch_size: Images per forward pass; None for what suits the backend.
            min_confidence: Detections at or below it are not kept, in [0, 1].
            all_classes: Whether to keep detections of classes that the record does not name.
            **options: Passed to the detector, such as `runtime="openvino"` or the `checkpoint` of `paper`.

        Raises:
            UsageError: If the backend, device or precision is unknown.
            WeightsError: If weights are missing or wrong; the message says which file to put where.
            SelfTestError: If the detector does not see what it must.
        """
        loaded = load_backend(backend, device=device, precision=precision, rules=rules, **options)
        scorer = cls(
            loaded.detector,
            loaded.verifier,
            rules=loaded.rules,
            batch_size=loaded.batch_size if batch_size is None else batch_size,
            min_confidence=min_confidence,
            all_classes=all_classes,
            name=loaded.name,
        )
        scorer._recipe = {
            "backend": backend,
            "device": str(device),
            "precision": precision,
            "rules": scorer.rules,
            "batch_size": scorer.batch_size,
            "min_confidence": min_confidence,
            "all_classes": all_classes,
            **options,
        }
        return scorer

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images.

        Args:
            images: What `geneval_reward.vision.images.as_images` takes: a list of paths, PIL images, arrays or tensors,
                or one batch array; uint8, or floats in [0, 1].
            specs: One per image: a spec, a record, a record as JSON, or a prompt text of the official suite.

        Returns:
            One verdict per image, in order. An image's verdict does not depend on the others in the call.

        Raises:
            ImageError: If an image cannot be scored; the message names its index.
            SpecError: If a spec is not valid, or names a class or colour that detector and verifier do not know; the message
                names its index.
            UsageError: If the lengths differ.
            torch.OutOfMemoryError: If a single image does not fit.
        """
        tensors = as_images(images)
        ready = isinstance(specs, Sequence) and all(isinstance(spec, PromptSpec) for spec in specs)
        parsed = cast("list[PromptSpec]", list(specs)) if ready else resolve_all(specs)
        if len(tensors) != len(parsed):
            raise UsageError(f"specs: expected {len(tensors)}, one per image, got {len(parsed)}")
        for index, spec in enumerate(parsed):
            if not self._knows(spec):
                raise SpecError(f"specs[{index}]: {self.vocabulary.problem(spec)}")
        with self._lock, torch.inference_mode(), no_autocast():
            verdicts, self.batch_size = run_in_batches(
                lambda part: self._score_batch(tensors[part], parsed[part]),
                len(tensors),
                self.batch_size,
                name="scorer",
                describe=lambda index: f"one image of {tensors[index].shape[2]} x {tensors[index].shape[1]}",
            )
        self._warn_if_all_wrong(verdicts)
        return verdicts

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers besides the rules: names, hashes, precision, versions. JSON-serialisable."""
        return {
            "backend": self.name,
            "detector": self.detector.fingerprint(),
            "verifier": None if self.verifier is None else self.verifier.fingerprint(),
            "min_confidence": self.min_confidence,
            "geneval_reward": __version__,
            # Only words of one's own, so that the fingerprints of the package's backends stay what they were.
            **({} if self.vocabulary == Vocabulary() else {"vocabulary": self.vocabulary.digest()}),
        }

    @property
    def fingerprint_id(self) -> str:
        """Twelve hex digits of `fingerprint`; results with equal ones are comparable."""
        return fingerprint_id(self)

    def to(self, device: torch.device | str) -> GenEvalScorer:
        """Move the weights; returns the scorer.

        On the way to the CPU, GPU memory that nothing uses is given back to other processes.
        """
        with self._lock:
            self.detector.to(device)
            if self.verifier is not None:
                self.verifier.to(device)
        if torch.device(device).type == "cpu" and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> GenEvalScorer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is not None:
            return partial(GenEvalScorer.from_pretrained, **self._recipe), ()
        names = ("rules", "batch_size", "min_confidence", "all_classes", "name")
        options = {name: getattr(self, name) for name in names}
        return partial(GenEvalScorer, self.detector, self.verifier, **options), ()

    def __repr__(self) -> str:
        return f"GenEvalScorer({self.name!r}, batch_size={self.batch_size}, fingerprint={self.fingerprint_id!r})"

    def _score_batch(self, images: list[torch.Tensor], specs: list[PromptSpec]) -> list[Verdict]:
        wanted = [self._wanted(spec) for spec in specs]
        detections = self.detector.detect(images, wanted)
        if len(detections) != len(images):
            raise RuntimeError(
                f"detector: expected {len(images)} results, got {len(detections)}; its batching is broken"
            )
        if any(found.names != self.vocabulary.classes for found in detections):
            raise UsageError("detector: expected Detections whose names are its class_names, got others; pass names=")
        colored = self._with_colors(images, specs, detections)
        return [judge(spec, found, self.rules) for spec, found in zip(specs, colored, strict=True)]

    def _knows(self, spec: PromptSpec) -> bool:
        items: tuple[Include | Exclude, ...] = (*spec.include, *spec.exclude)
        classes = all(item.class_name in self._rows_of for item in items)
        return classes and self._colors.issuperset(item.color for item in spec.include)

    def _wanted(self, spec: PromptSpec) -> Wanted:
        named = self._ids((*spec.include, *spec.exclude))
        colored = self._ids([item for item in spec.include if item.color is not None])
        return Wanted(None if self.all_classes else named, colored, self.min_confidence)

    def _ids(self, items: Sequence[Include | Exclude]) -> frozenset[int]:
        return frozenset(row for item in items for row in self._rows_of[item.class_name])

    def _with_colors(
        self, images: list[torch.Tensor], specs: list[PromptSpec], detections: list[Detections]
    ) -> list[Detections]:
        """Ask the verifier once for every colour of the batch."""
        asked = [self._asked_rows(spec, found) for spec, found in zip(specs, detections, strict=True)]
        if not any(asked):
            return detections
        # Verifiers cut out objects on the CPU: each image that is needed is copied from a GPU once.
        shown = iter(to_host([image for image, rows in zip(images, asked, strict=True) if rows]))
        queries = [
            ColorQuery(image, found.xyxy[row], found.class_names[row], None if found.mask is None else found.mask[row])
            for found, rows in zip(detections, asked, strict=True)
            if rows
            for image in [next(shown)]
            for row in rows
        ]
        if self.verifier is None:
            raise UsageError(
                "verifier: expected one, since a record asks for a colour, got None; give one, such as "
                "geneval_reward.vision.colors.lite.LiteVerifier()"
            )
        answers = self.verifier.colors(queries)
        if len(answers) != len(queries):
            raise RuntimeError(f"verifier: expected {len(queries)} rows, got {len(answers)}; its batching is broken")
        colors = self.vocabulary.colors
        if np.shape(answers)[1:] != (len(colors),):
            raise UsageError(f"verifier: expected {len(colors)} columns, one per colour, got shape {np.shape(answers)}")
        unread = iter(answers)
        colored = []
        for found, rows in zip(detections, asked, strict=True):
            table = np.full((len(found), len(colors)), np.nan, np.float32)
            for row in rows:
                table[row] = next(unread)
            colored.append(found.with_color(table, colors) if rows else found)
        return colored

    def _asked_rows(self, spec: PromptSpec, detections: Detections) -> list[int]:
        """Rows whose colour a credit may look at: the most confident of each coloured clause, as many as it counts."""
        evidence = Evidence(detections, self.rules, spec.tag)
        rows = [evidence.ranked(item.class_name)[: item.count] for item in spec.include if item.color is not None]
        return sorted({row for group in rows for row in group})

    def _warn_if_all_wrong(self, verdicts: list[Verdict]) -> None:
        if self._warned_all_wrong or len(verdicts) < _SUSPICIOUS_BATCH or any(verdict.correct for verdict in verdicts):
            return
        self._warned_all_wrong = True
        warnings.warn(
            f"all {len(verdicts)} images of a call are wrong; if the pictures look right, run `geneval-reward doctor`: "
            "broken kernels or weights give low confidences and no error",
            stacklevel=3,
        )
