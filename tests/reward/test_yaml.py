"""CompositeReward in the configuration of the recipes, as docs/rewards.md shows it."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from geneval_reward.reward import CompositeReward, GenEvalReward
from geneval_reward.reward.models import PickScore
from geneval_reward.train import load_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rewards.md").read_text()
BLOCKS = re.findall(r"(<!-- parsed[^>]*-->)\n```(\w+)\n(.*?)```", PAGE, re.S)


def brightness(images):
    return [float(torch.as_tensor(image).float().mean()) for image in images]


def parsed(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(load_recipe("diffusion_nft").DiffusionNFT, "model")
    # The second is its name before jsonargparse 4.49.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parser.parse_object(yaml.safe_load(text))).model


def test_the_recipes_configuration_of_the_page():
    [text] = [code for mark, kind, code in BLOCKS if kind == "yaml" and "recipe" in mark]
    reward = parsed(text).reward
    assert isinstance(reward, CompositeReward)
    assert {name: type(part) for name, part in reward.parts.items()} == {"geneval": GenEvalReward, "pick": PickScore}
    assert reward.weights == {"geneval": 1.0, "pick": 0.2}
    assert (reward.parts["geneval"].credit, reward.missing) == ("strict", "none")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*",
    "ignore:.*does not have many workers.*",
    "ignore:.*rewards of a batch are 0.*",
    "ignore:.*images in a row.*",
)
def test_a_recipe_trains_with_it(tmp_path):
    """One epoch of DiffusionNFT on a tiny SD3 from a configuration file: parts are scored in flight and logged."""
    from lightning.pytorch import Trainer

    from geneval_reward.train import PromptGroups

    text = f"""
    model:
      policy: {{pipeline: geneval_reward.train.tiny:tiny_sd3}}
      lora_rank: 4
      num_steps: 2
      reward:
        class_path: geneval_reward.reward.CompositeReward
        init_args:
          parts:
            geneval: {{class_path: geneval_reward.reward.GenEvalReward, init_args: {{scorer: lite, credit: dense}}}}
            bright: {brightness.__module__}.brightness
          weights: {{bright: 0.01}}
    """
    sys.modules.setdefault(brightness.__module__, sys.modules[__name__])
    module = parsed(text)
    logged = {}
    module.log_dict = lambda metrics, **_: logged.update(metrics)
    data = PromptGroups(8, groups=2, group_size=4, batch_size=4, seed=1)
    fit = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    fit.fit(module, data)
    logged = {name: float(value) for name, value in {**fit.callback_metrics, **logged}.items()}
    assert logged["reward/bright"] > 1
    assert logged["reward/mean"] == pytest.approx(logged["reward/geneval"] + 0.01 * logged["reward/bright"], rel=1e-3)
    assert "reward/geneval/official" in logged
