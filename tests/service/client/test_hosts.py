"""Metric, reward and callback on the scorer of a real server process."""

import pickle
from contextlib import closing

import lightning.pytorch as pl
import pytest
import torch

from geneval_reward import GenEvalCallback, GenEvalScore
from geneval_reward.results import read_results
from geneval_reward.reward import GenEvalReward
from geneval_reward.scorer import fingerprint_id
from geneval_reward.service import RemoteScorer

pytestmark = pytest.mark.slow

BENCH = "a photo of a bench"
COW = "a photo of a cow"


@pytest.fixture(scope="module")
def url(server_with):
    return server_with("--backend", "service_fakes:make", "--device", "cpu", "--threads", "1").ready().url


@pytest.fixture
def remote(url):
    with closing(RemoteScorer(url, timeout=120)) as scorer:
        yield scorer


def test_reward(remote, fakes):
    images = [fakes.picture(confidence) for confidence in (10, 100, 180, 250)]
    prompts = [BENCH, COW, BENCH, BENCH]
    for credit in ("official", "strict", "partial", "dense", "flow_grpo"):
        reward, ours = GenEvalReward(remote, credit), GenEvalReward(fakes.make(), credit)
        batch, expected = reward.score(images, prompts), ours.score(images, prompts)
        assert batch.rewards == expected.rewards
        assert batch.credits() == expected.credits()
        assert reward.submit(images, prompts).result(60).rewards == expected.rewards
        reward.close()
    copy = pickle.loads(pickle.dumps(GenEvalReward(remote, "dense")))
    assert copy(images, prompts) == GenEvalReward(fakes.make(), "dense")(images, prompts)
    copy.scorer.close()


def test_a_bad_sample_is_none(remote, fakes):
    images = [fakes.picture(200), torch.full((3, 8, 8), -1.0), fakes.picture(what=fakes.RAISE), fakes.picture(10)]
    batch = GenEvalReward(remote).score(images, [BENCH, BENCH, BENCH, "a photo of a unicorn"])
    assert batch.rewards == [1.0, None, None, None]
    assert "images[1]: expected floats in [0, 1]" in batch.errors[1]
    assert batch.errors[2] == "images[2]: ValueError: the detector does not like this image"
    assert "prompts[3]" in batch.errors[3]


@pytest.mark.filterwarnings("ignore:GenEvalScore. no images for")
def test_metric(remote, fakes):
    metric, ours = GenEvalScore(remote), GenEvalScore(fakes.make())
    for confidences in ((10, 200), (250, 30, 220)):
        images = [fakes.picture(confidence) for confidence in confidences]
        for one in (metric, ours):
            one.update(images, [BENCH] * len(images))
    assert metric.compute() == ours.compute() > 0


class Painter(pl.LightningModule):
    def __init__(self, picture):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
        self.picture = picture

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def generate(self, prompts, seeds):
        return [self.picture(200 if seed % 2 else 10) for seed in seeds]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec")
def test_callback(remote, fakes, tmp_path):
    callback = GenEvalCallback(scorer=remote, prompts=[BENCH, COW], every_n_epochs=1, log_images=0)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[callback],
    )
    trainer.fit(Painter(fakes.picture), torch.utils.data.DataLoader(torch.ones(4, 1)))
    assert trainer.callback_metrics["geneval/n"] > 0
    (path,) = tmp_path.glob("**/results.jsonl")
    rows = list(read_results(path).rows())
    assert {row.backend for row in rows} == {"fake"}
    assert {row.fingerprint for row in rows} == {fingerprint_id(remote)} == {fakes.make().fingerprint_id}
