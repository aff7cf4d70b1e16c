import json

import numpy as np
import pytest
import torch

from geneval_reward.errors import SearchError, UsageError
from geneval_reward.generate import Generator, plan_images, write_images
from geneval_reward.prompts import PromptSpec, official_suite
from geneval_reward.results import ResultRow, ResultWriter, read_results
from geneval_reward.results.generation import selection_marks
from geneval_reward.results.layout import read_folder
from geneval_reward.search import SearchGenerator, best_of_n, load_reward, search
from geneval_reward.search.load import PatchFeatures
from geneval_reward.study.compare import compare_files
from geneval_reward.study.summary import summarize
from geneval_reward.testing import FakeDetector, scorer_for


@pytest.fixture
def generator(toy, make_reward):
    return SearchGenerator(toy, best_of_n(3), make_reward(), selected_by="toy")


def test_it_is_a_generator_whose_images_depend_on_their_own_seed(generator) -> None:
    assert isinstance(generator, Generator)
    prompts = ["a photo of a bench", "a photo of a cow"]
    together = generator.generate(prompts, [1, 2])
    assert [len(found.images) for found in generator.found] == [3, 3]
    assert generator.generate(prompts[1:], [2])[0].tobytes() == together[1].tobytes()
    with pytest.raises(UsageError, match="seeds: expected one per prompt"):
        generator.generate(prompts, [1])


def test_the_reward_gets_the_spec_of_a_known_prompt_and_the_text_of_others(toy, make_reward) -> None:
    reward, seen = make_reward(), []
    submit = reward.submit
    reward.submit = lambda images, specs: seen.append(specs[0]) or submit(images, specs)
    mine = PromptSpec.parse(
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "red dog"}
    )
    generator = SearchGenerator(toy, best_of_n(2), reward, prompts=[mine])
    generator.add_prompts({"a crimson hound": mine})
    generator.generate(["a photo of a bench", "red dog", "a crimson hound", "anything"], [0, 0, 0, 0])
    assert [getattr(spec, "tag", spec) for spec in seen] == ["single_object", "colors", "colors", "anything"]


def folder(tmp_path, generator, specs, name="images"):
    jobs = plan_images(tmp_path / name, specs, 2, 0)
    assert sum(len(batch.jobs) for batch in write_images(generator, jobs)) == len(jobs)
    return tmp_path / name


def score(root, path, judge):
    scorer = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))
    items = read_folder(root).items
    with ResultWriter(path) as writer:
        for item in items:
            verdict = scorer.score([np.zeros((9, 9, 3), np.uint8)], [item.spec])[0]
            marks = selection_marks(item.selected, judge)
            writer.write([ResultRow.from_verdict(verdict, item.filename, seed=item.seed, backend=judge, **marks)])
    return read_results(path)


def test_lineage_cost_and_mark_are_beside_the_images_and_go_into_results(tmp_path, generator) -> None:
    specs = official_suite()[:3]
    root = folder(tmp_path, generator, specs)
    record = json.loads((root / "00001" / "generation.json").read_text())
    assert record["text"] == specs[1].prompt
    mine = record["search"]["0001.png"]
    assert (mine["n"], mine["selected_by"], mine["cost"]["passes"]) == (3, "toy", 3.0)
    assert len(mine["rewards"]) == 3
    again = search(
        generator.steps, generator.plan, generator.reward, prompt=record["text"], seed=record["seeds"]["0001.png"]
    )
    assert mine["rewards"] == again.rewards
    # Going on makes nothing again and loses no record.
    before = (root / "00001" / "generation.json").read_bytes()
    assert list(write_images(generator, plan_images(root, specs, 2, 0))) == []
    assert (root / "00001" / "generation.json").read_bytes() == before
    assert [item.selected for item in read_folder(root).items] == [("toy", 3)] * 6

    other = score(root, tmp_path / "other.jsonl", "nanodet")
    assert other.selected_by == ["toy"] * 6
    assert not other.best_of.any()
    same = score(root, tmp_path / "same.jsonl", "toy")
    assert same.best_of.tolist() == [3] * 6
    by_other, by_same = summarize(other, draws=100), summarize(same, draws=100)
    assert "selected by toy" in by_other.standing
    assert "chosen by this metric" not in by_other.standing
    assert any("6 images were selected at sampling time by toy" in note for note in by_other.notes)
    assert "best of 3 chosen by this metric" in by_same.standing
    assert any("their score is no measure of the generator" in note for note in by_same.notes)


def test_compare_says_what_selected_and_is_loud_if_it_reports(tmp_path, generator, toy) -> None:
    specs = official_suite()[:3]
    plain = folder(tmp_path, SearchGenerator(toy, best_of_n(1)), specs, "plain")
    assert [item.selected for item in read_folder(plain).items] == [None] * 6
    root = folder(tmp_path, generator, specs)
    for judge, serious in (("nanodet", set()), ("toy", {"best_of"})):
        paths = [tmp_path / f"{judge}{i}.jsonl" for i in (0, 1)]
        for path, images in zip(paths, (plain, root), strict=True):
            score(images, path, judge)
        problems = compare_files(paths, draws=100).problems
        kinds = {problem.kind: problem for problem in problems}
        assert "selected at sampling time by toy" in kinds["selected"].text
        assert {kind for kind in ("best_of", "selected") if kind in kinds and kinds[kind].serious} == serious


def test_rows_of_images_that_were_not_selected_are_as_before(tmp_path, toy) -> None:
    root = folder(tmp_path, SearchGenerator(toy, best_of_n(1)), official_suite()[:1])
    score(root, tmp_path / "r.jsonl", "toy")
    assert "selected_by" not in (tmp_path / "r.jsonl").read_text()


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_function_that_answers_nothing_leaves_equal_chances(value, toy) -> None:
    generator = SearchGenerator(toy, best_of_n(3), load_reward(lambda images: [value] * len(images)))
    generator.generate(["a dog"], [0])
    assert generator.found[0].rewards == [None] * 3


def test_images_before_a_failing_reward_are_on_disk(tmp_path, toy, make_reward) -> None:
    count = []

    def change(value):
        count.append(value)
        if len(count) > 3:
            raise RuntimeError("server gone")
        return value

    jobs = plan_images(tmp_path, official_suite()[:3], 1, 0)
    with pytest.raises(SearchError, match="RuntimeError: server gone"):
        list(write_images(SearchGenerator(toy, best_of_n(3), make_reward(change)), jobs))
    assert [job.path.exists() for job in jobs] == [True, False, False]


def test_rewards_by_name(make_reward) -> None:
    mine = make_reward()
    assert load_reward(mine) is mine
    assert load_reward("lite").credits == ("official", "dense")
    assert load_reward("lite", credit="partial").credits == ("partial",)
    bright = load_reward(lambda images: [float(image.float().mean()) for image in images])
    pictures = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (3, 200)]
    assert bright.submit(pictures, official_suite()[:2]).result().rewards == [3.0, 200.0]

    def asked(images, prompts, metadata):
        return [len(prompts[0]) + metadata[0]["include"][0]["count"], float("nan")]

    bench = official_suite()[0]
    assert load_reward(asked).submit(pictures, [bench, "any text"]).result().rewards == [len(bench.prompt) + 1, None]
    with pytest.raises(TypeError, match="expected a callable of images"):
        load_reward(lambda pixels: [])
    with pytest.raises(UsageError, match=r"reward: expected one of lite, nanodet, .*clip_score"):
        load_reward("beauty")
    with pytest.raises(UsageError, match="nonsense"):
        load_reward("lite", credit="nonsense")


@pytest.mark.slow
def test_patch_features_of_a_tiny_dino() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14, num_register_tokens=4
    )
    found = PatchFeatures(transformers.Dinov2WithRegistersModel(config), device="cpu")(
        [torch.randint(0, 255, (3, 64, 48), dtype=torch.uint8)] * 2
    )
    assert found.shape == (2, 256, 8)
