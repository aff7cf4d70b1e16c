"""A sweep with a generator and a scorer whose answers are known, and the tiny diffusers pipelines."""

import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from geneval_reward import GenEvalScorer
from geneval_reward.errors import ResultsError
from geneval_reward.generate import CallableGenerator
from geneval_reward.judge import Detections
from geneval_reward.pocket import pocket_suite
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import read_results
from geneval_reward.results.tables import render
from geneval_reward.study.sweep import run as sweep_run
from geneval_reward.study.sweep.grid import make_cells
from geneval_reward.study.sweep.plot import plot, save_plot
from geneval_reward.study.sweep.run import Sweep, SweepRunner
from geneval_reward.study.sweep.table import sweep_table

SPECS = tuple(
    PromptSpec.parse({"tag": tag, "include": [{"class": name, "count": 1}]})
    for tag, names in (("single_object", "dog cat cup car bus cow"), ("counting", "bed toilet bowl spoon fork bird"))
    for name in names.split()
)


class World:
    """A generator that draws a lighter picture for a better setting, and a scorer that finds an object in light ones."""

    def __init__(self) -> None:
        self.made, self.loaded, self.fail_after = 0, [], None

    def load(self, model, *, device="auto", batch_size=None, quality=0.5, **arguments):
        self.loaded.append((model, quality, arguments))

        def paint(prompts, seeds):
            if self.fail_after is not None and self.made >= self.fail_after:
                raise RuntimeError("the power went out")
            self.made += len(prompts)
            chances = [np.random.default_rng(seed).random() for seed in seeds]
            return [np.full((8, 8, 3), 255 if chance < quality else 0, np.uint8) for chance in chances]

        return CallableGenerator(paint, batch_size=batch_size or 5)

    def scorer(self):
        class Detector:
            name = "light"

            def fingerprint(self):
                return {"name": "light is an object"}

            def to(self, device):
                return self

            def detect(self, images, wanted):
                found = []
                for image, want in zip(images, wanted, strict=True):
                    light = float(np.asarray(image).mean()) > 100
                    ids = sorted(want.class_ids) if light else []
                    found.append(
                        Detections(
                            np.tile([1, 1, 5, 5], (len(ids), 1)),
                            np.full(len(ids), 0.95),
                            ids,
                            (8, 8),
                        )
                    )
                return found

        return GenEvalScorer(Detector(), None, name="fake")


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(sweep_run, "load_generator", world.load)
    return world


def make(root, grid, n=3, **options):
    return Sweep(root, "fake", make_cells(grid), SPECS, tuple(range(len(SPECS))), n, **options)


def run_all(world, sweep):
    runner = SweepRunner(sweep, world.scorer)
    assert [runner.run(cell) for cell in sweep.renderings()] == [{}] * len(sweep.renderings())
    return sweep_table(sweep, len(SPECS), draws=300)


def test_scores_times_and_selection(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.3, 0.6, 0.9]})
    table = run_all(world, sweep)
    values = [row.overall.value for row in table.rows]
    assert values == sorted(values)
    assert values[0] < 0.5 < 0.75 < values[2]
    assert [row.selected for row in table.rows] == [False, False, True]
    assert table.selection.best == 2
    assert table.rows[0].difference is None
    assert table.rows[2].difference.shown
    assert table.rows[2].difference.value == pytest.approx(values[2] - values[0])
    assert [row.timing.images for row in table.rows] == [36] * 3
    assert all(row.timing.seconds > 0 for row in table.rows)
    assert any("is the best of 3 settings on these prompts: its score is too high" in note for note in table.notes)
    record = table.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert [row["selected"] for row in record["rows"]] == [False, False, True]
    assert record["held_out"]["value"] == pytest.approx(table.selection.held_out.value, abs=1e-6)
    assert render(table.document(), "csv").count("\n") == 4
    assert "| held out |" in render(table.document(), "markdown")
    (shown,) = table.document().tables
    header, rows = shown.header, shown.rows
    assert header == ["quality", "score", "s/image", "change", "note"]
    assert "selected" in rows[2][-1]


def test_noise_is_shared_and_cells_differ_in_their_arguments_alone(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4, 0.8]})
    run_all(world, sweep)
    low, high = (read_results(sweep.folder(cell) / "results.jsonl") for cell in sweep.cells)
    assert low.seeds == high.seeds
    assert len(set(low.seeds)) == len(low)
    assert (high.correct >= low.correct).all(), "the same noise in both"


def test_an_interrupted_sweep_goes_on_image_by_image(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4, 0.8]})
    world.fail_after = 50
    with pytest.raises(RuntimeError, match="power went out"):
        run_all(world, sweep)
    made = world.made
    assert 36 < made < 72
    world.fail_after = None
    table = run_all(world, sweep)
    assert world.made - made <= 72 - made + 4, "warm-up images aside, nothing is made twice"
    assert [row.overall.images for row in table.rows] == [36, 36]
    before = world.made
    again = run_all(world, sweep)
    assert world.made == before, "a finished sweep makes nothing"
    assert again.to_dict() == table.to_dict()


def test_a_damaged_results_file_is_completed(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4]})
    table = run_all(world, sweep)
    path = sweep.folder(sweep.cells[0]) / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]) + lines[20][:30])
    with pytest.warns(UserWarning, match="cut off"):
        again = run_all(world, sweep)
    assert again.rows[0].overall.value == table.rows[0].overall.value
    assert len(read_results(path)) == 36


def test_best_of_is_flagged_and_takes_no_part_in_the_choice(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4, 0.5], "best_of": [1, 3]}, n=2)
    table = run_all(world, sweep)
    plain, chosen = table.rows[0], table.rows[1]
    assert len(sweep.renderings()) == 2
    assert chosen.overall.images == plain.overall.images == 24
    assert chosen.overall.value > plain.overall.value + 0.2
    assert chosen.timing.seconds == pytest.approx(3 * plain.timing.seconds)
    results = read_results(tmp_path / chosen.path)
    assert results.best_of.tolist() == [3] * 24
    assert sorted(set(results.index.tolist())) == [0, 1]
    everything = read_results(tmp_path / plain.path)
    assert not everything.best_of.any()
    columns = (everything.prompt_ids.tolist(), everything.index.tolist(), everything.correct)
    correct = {(prompt, index): one for prompt, index, one in zip(*columns, strict=True)}
    for prompt, index, one in zip(results.prompt_ids, results.index, results.correct, strict=True):
        assert one == any(correct[int(prompt), 3 * int(index) + i] for i in range(3))
    assert [row.selected for row in table.rows] == [False, False, True, False]
    assert any("chosen by this very metric" in note for note in table.notes)
    assert [record["best_of"] for record in table.to_dict()["rows"]] == [None, 3, None, 3]
    assert not chosen.front


def test_images_that_cannot_be_scored_are_left_out_of_all_and_told(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4, 0.8]})
    run_all(world, sweep)
    folder = sweep.folder(sweep.cells[1])
    (folder / "results.jsonl").unlink()
    (folder / "00003/samples/0001.png").write_bytes(b"no image")
    failures = SweepRunner(sweep, world.scorer).run(sweep.cells[1])
    assert list(failures) == ["00003/samples/0001.png"]
    table = sweep_table(sweep, len(SPECS), draws=200)
    assert [row.overall.images for row in table.rows] == [35, 35]
    assert any("1 of 36 images are not scored in every setting" in note for note in table.notes)


def test_a_sweep_that_was_not_run(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4, 0.8]})
    with pytest.raises(ResultsError, match="expected a results file, got none"):
        sweep_table(sweep, len(SPECS))


def test_the_picture(world, tmp_path) -> None:
    table = run_all(world, make(tmp_path, {"quality": [0.3, 0.9], "best_of": [1, 2]}, n=2))
    axes = plot(table).axes[0]
    assert axes.get_xlabel() == "seconds per image"
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("quality 0.3") == 2
    labels = axes.get_legend_handles_labels()[1]
    assert any("images chosen by the metric" in label for label in labels)
    assert any("optimistic" in label for label in labels)
    save_plot(table, tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.width > 800
    with pytest.raises(ValueError, match="expected a picture file"):
        save_plot(table, tmp_path / "sweep.doc")


def test_a_subset_is_said(world, tmp_path) -> None:
    sweep = make(tmp_path, {"quality": [0.4]})
    SweepRunner(sweep, world.scorer).run(sweep.cells[0])
    table = sweep_table(sweep, 553, draws=200)
    assert any("a subset: 12 of 553 prompts; not comparable" in note for note in table.notes)
    assert table.selected is None, "one setting is no choice"


def test_one_prompt_a_task_gives_a_table_without_differences(world, tmp_path) -> None:
    specs = (SPECS[0], SPECS[6])
    sweep = Sweep(tmp_path, "fake", make_cells({"quality": [0.4, 0.8]}), specs, (0, 6), 2)
    table = run_all(world, sweep)
    assert [row.difference for row in table.rows] == [None, None]
    assert [row.overall.images for row in table.rows] == [4, 4]
    assert any("got one of counting, single_object; sweep more prompts" in note for note in table.notes)
    assert render(table.document(), "csv").count("\n") == 3
    assert table.document().tables[0].rows[1][-2] == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_real_pipelines_with_random_weights(tmp_path) -> None:
    grid = {
        "model": ["geneval_reward.train.tiny:tiny_sd3", "geneval_reward.train.tiny:tiny_flux"],
        "steps": [1, 2],
        "resolution": [32, 64],
    }
    specs = SPECS[:2]
    sweep = Sweep(tmp_path, "unused", make_cells(grid), specs, (0, 1), 1, device="cpu")
    runner = SweepRunner(sweep, World().scorer)
    for cell in sweep.renderings():
        runner.run(cell)
    sizes, pictures = set(), set()
    for cell in sweep.cells:
        with Image.open(sweep.folder(cell) / "00000/samples/0000.png") as image:
            sizes.add((dict(cell.values)["resolution"], image.size))
            pictures.add(image.tobytes())
        assert not math.isnan(sweep_table(sweep, 2, draws=100).rows[0].timing.seconds)
    assert sizes == {(32, (32, 32)), (64, (64, 64))}
    assert len(pictures) == 8, "every argument must matter"


def test_a_function_that_makes_the_pipeline_is_called_for_each_of_its_arguments(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "from geneval_reward.pocket import load_pipeline\n"
        "def make(shift):\n"
        "    pipe = load_pipeline()\n"
        "    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=shift)\n"
        "    return pipe\n"
    )
    cells = make_cells({"shift": [1.0, 3.0], "steps": [3, 4]})
    sweep = Sweep(tmp_path, f"{tmp_path / 'own.py'}:make", cells, pocket_suite()[:1], (0,), 1, device="cpu")
    runner = SweepRunner(sweep, World().scorer)
    pictures = set()
    for cell in sweep.cells:
        runner.run(cell)
        pictures.add((sweep.folder(cell) / "00000/samples/0000.png").read_bytes())
    assert len(pictures) == 4, "every argument must matter"


def test_settings_of_others_stay_text_in_every_table(world, tmp_path) -> None:
    evil = ["=cmd|' /C calc'!A0", "@x", "<img src=x onerror=alert(1)>", "[99cm]", "[/x]"]
    sweep = make(tmp_path, {"name": evil, "quality": [0.4, 0.8]}, n=1)
    table = run_all(world, sweep)
    document = table.document()
    rows = list(csv.DictReader(io.StringIO(render(document, "csv"))))
    assert {row["name"][0] for row in rows} == {"'", "<", "["}
    assert all(0 <= float(row["low"]) <= float(row["high"]) <= 1 for row in rows)
    assert "<img" not in render(document, "markdown")
    assert "\n[99cm]" not in render(document, "latex")
    assert "[/x]" in render(document, "table")
    assert "judged by fake" in render(document, "table")
    save_plot(table, tmp_path / "p.png")
