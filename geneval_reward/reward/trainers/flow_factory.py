"""The reward for Flow-Factory, by dotted path in its YAML.

Facts, X-GenGroup/Flow-Factory 5f6cda1 (`rewards/abc.py`), 0c8ebfc (`registry.py`), 0e8437e (`reward_processor.py`):

* `reward_model` is a registered name or the dotted path of an attribute of a module;
* it must be a subclass of `flow_factory.rewards.PointwiseRewardModel`, since the processor sorts models by
  `isinstance`;
* it is made as `cls(config=, accelerator=)`; keys of the YAML entry that `RewardArguments` does not know are in
  `config.extra_kwargs`; the base class sets `accelerator, config, device, dtype, model`;
* it is called as `model(**fields)` with those fields of the samples that its `__call__` names, each a list: `prompt`, `image`
  (PIL if `use_tensor_inputs` is false, float `(3, h, w)` in [0, 1] if it is true) and `metadata`, the data set's own columns as
  one JSON string; a field that any sample of the batch lacks is left out;
* it returns `RewardModelOutput(rewards, extra_info)`; the rewards become one float tensor.

In the configuration::

    rewards:
      - name: geneval
        reward_model: geneval_reward.reward.trainers.flow_factory.GenEvalRewardModel
        batch_size: 64
        backend: paper
        credit: strict
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from geneval_reward.errors import UsageError
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.reward.trainers.shape import as_numbers, records

if TYPE_CHECKING:
    GenEvalRewardModel: Any

__all__ = ["GenEvalRewardModel"]


class _Model:
    """The part of `GenEvalRewardModel` that is not Flow-Factory's base class.

    Keys of the YAML entry: `backend` (default `paper`), `credit` (default `official`), `unscorable` (the reward of a sample that
    cannot be scored; by default this is an error), and other arguments of `GenEvalReward`.
    """

    required_fields: ClassVar[tuple[str, ...]] = ("prompt", "image", "metadata")
    # The policy's tensors need not be converted to PIL images.
    use_tensor_inputs = True

    device: torch.device
    config: Any

    def __init__(self, config: Any, accelerator: Any) -> None:
        super().__init__(config, accelerator)  # type: ignore[call-arg]
        options: dict[str, Any] = {"device": self.device}
        for name in ("extra_kwargs", "reward_model_kwargs"):
            options |= getattr(config, name, None) or {}
        self.unscorable: float | None = options.pop("unscorable", None)
        self.reward = GenEvalReward(options.pop("backend", "paper"), options.pop("credit", "official"), **options)

    def __call__(
        self,
        prompt: Sequence[str],
        image: Any = None,
        video: Any = None,
        metadata: Sequence[Any] | None = None,
        geneval_metadata: Sequence[Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Return the rewards of a batch.

        Args:
            prompt: Texts.
            image: Images.
            video: Not supported; raises an error if there are no images.
            metadata: Records as mappings or JSON; for a row without `include`, the prompt is used.
            geneval_metadata: Records under the name that Flow-Factory's own GenEval reward has for them.
            **fields: Not read.

        Returns:
            Flow-Factory's `RewardModelOutput`: float32 `(n,)` and every credit in `extra_info`.

        Raises:
            UsageError: If there are no images.
            GenEvalError: If a sample has no reward and `unscorable` is not given.
        """
        from flow_factory.rewards import RewardModelOutput

        if image is None:
            raise UsageError(
                f"image: expected images, got {'a video' if video is not None else 'none'}; score its frames one by one"
            )
        asked = metadata if geneval_metadata is None else geneval_metadata
        scored = self.reward.score(image, prompt, records(asked))
        numbers = as_numbers(scored, self.unscorable, "Flow-Factory")
        extra = {f"geneval/{name}": values for name, values in scored.credits().items()}
        return RewardModelOutput(rewards=torch.tensor(numbers, dtype=torch.float32), extra_info=extra)

    def to(self, device: Any) -> Any:
        """Move the weights, if they are loaded."""
        if self.reward.loaded:
            self.reward.scorer.to(device)
        self.device = torch.device(device)
        return self


def __getattr__(name: str) -> Any:
    # The base class is needed for isinstance, and importing this module must not need Flow-Factory.
    if name != "GenEvalRewardModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from flow_factory.rewards import PointwiseRewardModel
    except ImportError as error:
        raise ImportError(
            "GenEvalRewardModel: expected Flow-Factory to be installed, since its base class is there; install it, or use "
            "geneval_reward.reward.GenEvalReward, which needs no trainer"
        ) from error
    body = {"__module__": __name__, "__doc__": _Model.__doc__, "__call__": _Model.__call__}
    made = globals()[name] = type(name, (_Model, PointwiseRewardModel), body)
    return made
