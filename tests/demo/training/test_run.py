"""The demo's training from end to end, on an untrained pocket model and a judge that looks at colours."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from geneval_reward.cli.shared.demo_train import print_methods
from geneval_reward.demo.training import Settings, settings_for, train_pocket
from geneval_reward.demo.training.page import methods_table, training_page
from geneval_reward.demo.training.record import Point, RunRecord, records_in
from geneval_reward.errors import ResultsError
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
    settings = Settings(0.25, groups=2, group_size=4, check_every=1, audit_every=2, module=settings_for(method).module)
    second = scorer_for(FakeDetector({"clock": [[5, 5, 100, 100, 0.95]]}))
    result = train_pocket(
        method, settings=settings, scorer=scorer, second=second, pipeline=pipeline, progress=told.append, out=tmp_path
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
    # The callback looked at held-out prompts after every epoch, the audit after every second one.
    assert all(0 <= point.held_out <= 1 for point in result.curve)
    assert [math.isnan(point.audit_gap) for point in result.curve] == [point.epoch % 2 == 1 for point in result.curve]
    if method == "nft":  # an epoch without any difference in rewards teaches Flow-GRPO nothing, and has no norm
        assert result.curve[0].metrics["velocity_norm_drift"] == 0.0
    assert result.audit_before.images == result.audit_after.images > 20
    assert result.audit_before.views == ("as they are",)  # the second judge is another network
    assert list(tmp_path.rglob("geneval/step-*"))

    record = RunRecord.of(result)
    assert RunRecord.load(record.save(tmp_path)) == record
    other = replace(record, method="flow-grpo" if method == "nft" else "nft")
    page = training_page(result, [record, other])
    assert "DiffusionNFT" in page
    assert "Flow-GRPO" in page
    assert result.launch_line in page
    assert f"{100 * record.difference[0]:+.1f} [" in page
    assert page.count("after, same noise") == 18
    assert 'src="http' not in page


def test_half_of_the_rise_is_told_where_it_was_seen():
    curve = [
        Point(n, 100 * n, 10.0 * n, 0.5, held_out, None, None) for n, held_out in enumerate((0.4, None, 0.6, 0.8), 1)
    ]
    run = RunRecord(
        "nft", 0, 1.0, (0.4, 0.3, 0.5), (0.8, 0.7, 0.9), (0.4, 0.3, 0.5), {}, 400, 40.0, 50.0, {}, {}, curve, {}
    )
    columns, rows = methods_table([run])
    assert dict(zip(columns, rows[0], strict=True)) == {
        "method": "DiffusionNFT, 1 min",
        "images": "400",
        "seconds": "50",
        "before": "0.400",
        "after": "0.800",
        "difference, points": "+40.0 [+30.0, +50.0]",
        "half of it at": "300 images, 30 s",
    }
    console = Console(width=80, file=io.StringIO())
    print_methods([run], console)
    printed = console.file.getvalue()
    assert "…" not in printed
    assert all(word in printed for cell in rows[0] for word in cell.split())
    assert max(map(len, printed.splitlines())) <= 80


def test_a_record_of_something_else_is_refused(tmp_path):
    (tmp_path / "training-nft.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"training-nft.json: expected the record"):
        records_in(tmp_path)


@pytest.mark.filterwarnings("ignore:all .* images of a call are wrong")  # as they are of an untrained model
def test_an_exception_of_the_one_who_is_told_ends_the_run(parts):
    pipeline, scorer = parts

    def told(point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_pocket(
            settings=Settings(0.2, module=settings_for().module),
            scorer=scorer,
            second=scorer,
            pipeline=pipeline,
            progress=told,
        )


def test_settings():
    assert settings_for("nft").not_audited == ("scissors", "vase")
    assert settings_for("nft").minutes == 10
    assert settings_for("flow-grpo", quick=True).minutes == 2
    with pytest.raises(ValueError, match="expected nft or flow-grpo"):
        settings_for("ppo")
    with pytest.raises(ValueError, match="minutes"):
        train_pocket(settings=Settings(minutes=0))
