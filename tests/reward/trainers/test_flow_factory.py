"""Flow-Factory: a package of the same shape stands in for it, and its processor's calls are replayed.

Flow-Factory is not in the package index; where a checkout of it is installed, the last test takes the real base class.
"""

import abc
import dataclasses
import importlib
import inspect
import json
import pickle
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from geneval_reward.errors import GenEvalError

PATH = "geneval_reward.reward.trainers.flow_factory.GenEvalRewardModel"
BENCH = "a photo of a bench"
RECORD = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "crimson"}


class BaseRewardModel(abc.ABC):
    required_fields = ()
    use_tensor_inputs = False

    def __init__(self, config, accelerator):
        self.accelerator, self.config = accelerator, config
        self.device = accelerator.device if config.device == torch.device("cuda") else config.device
        self.dtype, self.model = config.dtype, None

    @abc.abstractmethod
    def __call__(self, *args, **kwargs):
        """The reward."""

    def to(self, device):
        if self.model is not None:
            self.model.to(device)
        self.device = device
        return self


class PointwiseRewardModel(BaseRewardModel):
    required_fields = ("image", "prompt")

    @abc.abstractmethod
    def __call__(self, prompt, image=None, **kwargs):
        """The reward."""


@dataclasses.dataclass
class RewardModelOutput:
    rewards: object
    extra_info: dict | None = None


def load(path):
    """As `flow_factory.rewards.registry.get_reward_model_class` does for a dotted path."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.fixture
def flow_factory(monkeypatch):
    package, rewards = types.ModuleType("flow_factory"), types.ModuleType("flow_factory.rewards")
    rewards.PointwiseRewardModel, rewards.RewardModelOutput = PointwiseRewardModel, RewardModelOutput
    package.rewards = rewards
    monkeypatch.setitem(sys.modules, "flow_factory", package)
    monkeypatch.setitem(sys.modules, "flow_factory.rewards", rewards)
    view = importlib.import_module(PATH.rsplit(".", 1)[0])
    monkeypatch.delitem(view.__dict__, "GenEvalRewardModel", raising=False)
    yield rewards
    view.__dict__.pop("GenEvalRewardModel", None)


@pytest.fixture
def make_model(flow_factory, make_reward, monkeypatch):
    def make(**entry):
        """As made from a YAML entry, with a detector that knows the pictures in place of the weights."""
        known = {"device": torch.device("cpu"), "dtype": torch.bfloat16, "batch_size": 4}
        config = SimpleNamespace(**known, extra_kwargs={"backend": "lite", **entry})
        model = load(PATH)(config=config, accelerator=SimpleNamespace(device=torch.device("cpu")))
        assert model.reward.lazy_scorer.options == {"device": torch.device("cpu")}
        model.reward = make_reward(model.reward.credit)
        return model

    return make


def processor_calls(model, samples):
    """As `RewardProcessor._compute_pointwise_batch`: fields that the signature takes and that no sample lacks."""
    names = inspect.signature(model.__call__).parameters
    anything = any(parameter.kind == parameter.VAR_KEYWORD for parameter in names.values())
    fields = [name for name in samples[0] if anything or name in names]
    batch = {name: [s[name] for s in samples] for name in fields if all(s[name] is not None for s in samples)}
    output = model(**batch)
    return torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32), output


def samples_of(images, *prompts, **columns):
    return [
        {
            "prompt": prompt,
            "image": image,
            "video": None,
            "latents": torch.zeros(4),
            **{k: v[i] for k, v in columns.items()},
        }
        for i, (image, prompt) in enumerate(zip(images, prompts, strict=True))
    ]


def test_by_dotted_path(make_model, flow_factory, pixels):
    model = make_model(credit="partial")
    assert isinstance(model, flow_factory.PointwiseRewardModel)
    assert load(PATH) is type(model)  # one class, or isinstance and pickle go wrong
    rewards, output = processor_calls(model, samples_of(pixels(1, 0), BENCH, BENCH))
    assert rewards.tolist() == [1.0, 0.0]
    assert output.extra_info["geneval/official"] == [1.0, 0.0]
    assert model.reward.credit == "partial"


@pytest.mark.parametrize(
    "column",
    [
        {"metadata": [json.dumps(RECORD), json.dumps({"id": 3, "metadata": RECORD})]},
        {"metadata": [json.dumps({"geneval_metadata": RECORD, "source": "x"})] * 2},
        {"geneval_metadata": [RECORD, json.dumps(RECORD)]},
    ],
)
def test_metadata_of_every_kind(make_model, column, pixels):
    rewards, _ = processor_calls(make_model(), samples_of(pixels(1, 0), "crimson", "scarlet", **column))
    assert rewards.tolist() == [1.0, 0.0]


def test_what_a_sample_lacks_is_left_out_by_the_processor(make_model, pixels):
    rewards, _ = processor_calls(make_model(), samples_of(pixels(1, 1), BENCH, BENCH, metadata=[None, json.dumps({})]))
    assert rewards.tolist() == [1.0, 1.0]


def test_no_reward_is_an_error_or_a_number(make_model, pixels):
    images = [*pixels(1), torch.full((3, 16, 16), float("nan"))]
    with pytest.raises(GenEvalError, match=r"Flow-Factory: expected a reward.*images\[1\]: expected finite"):
        processor_calls(make_model(), samples_of(images, BENCH, BENCH))
    rewards, _ = processor_calls(make_model(unscorable=0.0), samples_of(images, BENCH, BENCH))
    assert rewards.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="image: expected images, got a video"):
        make_model()(prompt=[BENCH], video=[pixels(1, 0)])


def test_threads_pickle_and_to(make_model, pixels):
    model = make_model()
    assert not model.reward.loaded
    model.to("cpu")
    assert not model.reward.loaded  # moving must not load
    copied = pickle.loads(pickle.dumps(model))
    for each in (model, copied):
        with ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(lambda _, m=each: processor_calls(m, samples_of(pixels(1, 0), BENCH, BENCH))[0], range(8))
            )
        assert all(rewards.tolist() == [1.0, 0.0] for rewards in found)
    assert model.to("cpu").device == torch.device("cpu")


def test_without_flow_factory_it_says_so(monkeypatch):
    view = importlib.import_module(PATH.rsplit(".", 1)[0])
    view.__dict__.pop("GenEvalRewardModel", None)
    monkeypatch.setitem(sys.modules, "flow_factory", None)
    with pytest.raises(ImportError, match="expected Flow-Factory to be installed"):
        load(PATH)
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = view.Other


def test_with_the_real_package():
    rewards = pytest.importorskip("flow_factory.rewards")
    assert issubclass(load(PATH), rewards.PointwiseRewardModel)
