import json

import numpy as np

from geneval_reward.generate import plan_images, write_images
from geneval_reward.prompts import official_suite
from geneval_reward.results.layout import read_folder
from geneval_reward.search import named_plan
from geneval_reward.train.recipes import load_recipe
from tests.search.conftest import ToyReward, ToySteps, number


def test_the_schedule_is_that_of_the_room() -> None:
    recipe = load_recipe("tts_var")
    for n_steps in (6, 8, 13, 28):
        method = recipe.TTSVAR(ToySteps(n_steps), ToyReward(), [], n=3)
        plan = named_plan("tts-var", 3, n_steps)
        assert method.schedule() == {step: (one.name, keep) for step, (keep, one) in plan.selections.items()}


def test_it_finds_better_images_and_marks_them(tmp_path) -> None:
    recipe, specs = load_recipe("tts_var"), official_suite()[:20]
    steps = ToySteps()
    method = recipe.TTSVAR(steps, ToyReward(), specs, n=2, selected_by="toy")
    jobs = plan_images(tmp_path, specs, 1, 0)
    assert sum(len(batch.jobs) for batch in write_images(method, jobs)) == 20
    record = json.loads((tmp_path / "00000" / "generation.json").read_text())["search"]["0000.png"]
    assert record["passes"] == named_plan("tts-var", 2, 5).passes(steps)
    assert [item.selected for item in read_folder(tmp_path).items] == [("toy", 16)] * 20
    plain = [number(steps.images(steps.start("", [seed]))[0]) for seed in range(200)]
    images = method.generate([spec.prompt for spec in specs], range(20))
    found = [number(image) for image in images]
    assert np.mean(found) > np.mean(plain) + 2
    assert method.generate([specs[3].prompt], [3])[0].tobytes() == images[3].tobytes()
