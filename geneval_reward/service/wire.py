"""The wire format of requests and replies. Server, client and OpenAPI page use the same classes.

`POST /score` takes a `ScoreRequest`, either as JSON (images in base64) or as a form (`multipart/form-data`). In a form, the part
`request` is the same JSON, and each image without `data` takes the next part named `image`, in order, as bytes.
The answer is a `ScoreReply`, or an `ErrorReply` with a status of 400 or above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, model_validator

from geneval_reward.errors import UsageError
from geneval_reward.judge import CREDITS, Detections, Verdict, judge
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.spec import MAX_PROMPT

SCORE_PATH: Final = "/score"
REQUEST_PART: Final = "request"
IMAGE_PART: Final = "image"
REQUEST_ID_HEADER: Final = "X-Request-ID"

Credit = Literal["official", "strict", "partial", "dense", "flow_grpo"]
assert Credit.__args__ == CREDITS  # type: ignore[attr-defined]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImagePayload(_Model):
    """One image, sent losslessly because a changed pixel may change a verdict."""

    format: Literal["png", "webp", "raw"] = Field(
        description="png, webp (lossless only), or raw: uint8 RGB values without a header, whose shape is given."
    )
    data: str | None = Field(
        default=None, description="The bytes in base64. Without it, they are the next part named `image` of the form."
    )
    shape: tuple[int, int, int] | None = Field(
        default=None, description="For raw values: [height, width, 3], or [3, height, width] with the layout chw."
    )
    layout: Literal["hwc", "chw"] = Field(default="hwc", description="For raw values: channels last or first.")

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if (self.shape is None) == (self.format == "raw"):
            raise UsageError(
                f"shape: expected one for raw images and for no others, got {self.shape} for {self.format}"
            )
        if self.shape is not None:
            channels = self.shape[2 if self.layout == "hwc" else 0]
            if channels != 3 or not all(0 < side < 2**20 for side in self.shape):
                raise UsageError(
                    f"shape: expected 3 channels and positive sides, got {list(self.shape)} with layout {self.layout}"
                )
        return self


class ScoreRequest(_Model):
    """A batch of images, each with what it should show."""

    # FailFast, because a validation error takes two hundred times the bytes of the value it is about.
    images: Annotated[list[ImagePayload], FailFast()] = Field(min_length=1, description="The images.")
    prompts: Annotated[list[Annotated[str, Field(max_length=MAX_PROMPT)] | dict[str, JsonValue]], FailFast()] = Field(
        min_length=1,
        description="One per image: a prompt text of the official suite, or a GenEval record (tag, include, exclude, prompt).",
    )
    credit: Credit = Field(default="official", description="The credit to answer as `reward`.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        le=86400,
        description="Seconds after which the answer is no longer needed; the server's own limit by default.",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.images) != len(self.prompts):
            raise UsageError(f"prompts: expected {len(self.images)}, one per image, got {len(self.prompts)}")
        return self


class DetectionsPayload(_Model):
    """Detections as parallel lists."""

    xyxy: list[tuple[float, float, float, float]]
    confidence: list[float]
    class_name: list[str] = Field(alias="class")
    color: list[list[float] | None] | None = Field(
        description="Probabilities of the ten colours; null where none was asked for."
    )
    colors: list[str] | None = Field(default=None, description="Names of the colours, if they are not the ten.")

    @classmethod
    def of(cls, detections: Detections) -> DetectionsPayload:
        """Make a payload from detections; float32 values are preserved exactly."""
        record = detections.to_dict()
        return cls.model_construct(
            xyxy=[tuple(box) for box in record["xyxy"]],
            confidence=record["confidence"],
            class_name=record["class"],
            color=record["color"],
            colors=record.get("colors"),
        )

    def detections(self, image_size: tuple[int, int]) -> Detections:
        """Rebuild the detections.

        Raises:
            UsageError: If the lists are not parallel.
        """
        return Detections.from_dict(self.model_dump(by_alias=True), image_size)


class VerdictPayload(_Model):
    """A complete verdict, which can be judged again under other rules without a model."""

    correct: bool
    reason: str
    tag: str
    prompt: str
    credits: dict[str, float]
    image_size: tuple[int, int]
    clauses: list[dict[str, JsonValue]]
    detections: DetectionsPayload

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictPayload:
        """Make a payload from a verdict.

        Raises:
            UsageError: If the verdict has no detections, which the other side needs to judge again.
        """
        if not verdict.has_detections:
            raise UsageError(
                "verdict: expected a verdict with detections to send, got answers to questions; give the host that scorer itself"
            )
        return cls.model_construct(
            correct=verdict.correct,
            reason=verdict.reason,
            tag=verdict.spec.tag,
            prompt=verdict.spec.prompt,
            credits=verdict.credits(),
            image_size=verdict.detections.image_size,
            clauses=[finding.to_dict() for finding in verdict.findings],
            detections=DetectionsPayload.of(verdict.detections),
        )

    def verdict(self, spec: PromptSpec, rules: Mapping[str, Any]) -> Verdict:
        """Rebuild the verdict by judging its detections again.

        Raises:
            UsageError: If the detections or rules are invalid.
        """
        return judge(spec, self.detections.detections(self.image_size), rules)


class ItemReply(_Model):
    """The verdict on one image, or why there is none."""

    reward: float | None = Field(default=None, description="The credit that was asked for.")
    verdict: VerdictPayload | None = None
    error: str | None = Field(default=None, description="Why the image could not be scored.")


class ScoreReply(_Model):
    """One entry per image, in the order of the request."""

    request_id: str
    version: str = Field(description="Version of geneval-reward on the server.")
    backend: str
    fingerprint: str = Field(description="Short id of the scorer; verdicts with equal ones are comparable.")
    rules: dict[str, JsonValue]
    credit: Credit
    items: list[ItemReply]


class ErrorReply(_Model):
    """The reason why a whole request was refused."""

    error: str
    request_id: str | None = None


class HealthReply(_Model):
    """Whether the server accepts requests."""

    status: Literal["ready", "starting", "draining", "failed"]
    workers_ready: int
    workers: int
    message: str = ""


class InfoReply(_Model):
    """Versions, scorer and limits of the server."""

    version: str
    backend: str
    fingerprint: str
    fingerprint_details: dict[str, JsonValue]
    rules: dict[str, JsonValue]
    batch_size: int
    devices: list[str]
    credits: list[str]
    limits: dict[str, float]


def splice(head: ScoreReply, items: list[bytes]) -> bytes:
    """Return the JSON text of a reply whose items are already JSON text from the workers."""
    text = head.model_copy(update={"items": []}).model_dump_json().encode()
    assert text.endswith(b'"items":[]}')
    return text[:-2] + b",".join(items) + b"]}"
