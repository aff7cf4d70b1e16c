"""The demo's training from end to end, on an untrained pocket model and a judge that looks at colours."""

import pytest

from geneval_reward.demo_training import Settings, settings_for, train_pocket
from geneval_reward.testing import FakeDetector, scorer_for


@pytest.fixture
def parts():
    from geneval_reward.pocket.build import build_pipeline

    pipeline = build_pipeline(layers=1, heads=2, head_width=8)
    pipeline.set_progress_bar_config(disable=True)

    def find(picture):
        bright = float(picture.float().mean()) > 190
        return {"clock": [[5, 5, 100, 100, 0.95]]} if bright else {"vase": [[5, 5, 100, 100, 0.95]]}

    return pipeline, scorer_for(FakeDetector(find))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other libraries'; the demo silences Lightning's own
@pytest.mark.parametrize("method", ["nft", "flow-grpo"])
def test_demo_reports_what_it_did(parts, method, tmp_path):
    pipeline, scorer = parts
    told = []
    settings = Settings(minutes=0.2, groups=2, group_size=4, check_every=1, module=settings_for(method).module)
    result = train_pocket(
        method, settings=settings, scorer=scorer, pipeline=pipeline, progress=told.append, out=tmp_path
    )
    assert [told[0].stage, told[-1].stage] == ["before", "after"]
    assert len(result.curve) == len(told) - 2 >= 1
    assert result.images_trained == 8 * len(result.curve) == result.curve[-1].images
    suite = {pair.spec.prompt for pair in result.pairs}
    assert len(result.pairs) == len(suite) > 150
    wrong = [pair.verdict_before.correct for pair in result.pairs]
    assert result.before.micro.value == pytest.approx(sum(wrong) / len(wrong))
    assert result.difference.overall.value == pytest.approx(result.after.overall.value - result.before.overall.value)
    assert result.pairs[0].before.shape == (256, 256, 3)
    assert (tmp_path / "last.ckpt").is_file()
    assert (tmp_path / "log").is_dir()


def test_settings():
    assert settings_for("nft").minutes == 10
    assert settings_for("flow-grpo", quick=True).minutes == 2
    with pytest.raises(ValueError, match="expected nft or flow-grpo"):
        settings_for("ppo")
    with pytest.raises(ValueError, match="minutes"):
        train_pocket(settings=Settings(minutes=0))
