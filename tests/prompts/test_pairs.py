from geneval_reward.prompts import (
    PromptSpec,
    counterfactual,
    counterfactual_pairs,
    counterfactual_prompts,
    meaning,
    mirrored,
    official_suite,
    resolve,
    training_prompts,
)


def test_relations_are_reversed_and_colors_exchanged():
    assert (
        counterfactual(resolve("a photo of a couch left of a toaster")).prompt
        == "a photo of a couch right of a toaster"
    )
    turned = counterfactual(resolve("a photo of a purple wine glass and a black apple"))
    assert turned.prompt == "a photo of a black wine glass and a purple apple"
    assert turned.tag == "color_attr"
    for text in ("a photo of a bench", "a photo of four benchs", "a photo of a blue fire hydrant"):
        assert counterfactual(resolve(text)) is None


def test_the_opposite_of_the_opposite_is_the_record():
    for spec in (*official_suite(), *training_prompts(200, 2)):
        other = counterfactual(spec)
        assert (other is not None) == (spec.tag in ("position", "color_attr"))
        if other is not None:
            assert meaning(counterfactual(other)) == meaning(spec) != meaning(other)


def test_colors_that_change_nothing_are_no_pair():
    record = {
        "tag": "color_attr",
        "include": [{"class": "cup", "count": 1, "color": color} for color in ("red", "blue")],
    }
    assert counterfactual(PromptSpec.parse(record)) is None
    record["include"][1]["color"] = "red"
    assert counterfactual(PromptSpec.parse(record)) is None


def test_only_sides_are_mirrored():
    assert mirrored(resolve("a photo of a couch left of a toaster")).prompt == "a photo of a couch right of a toaster"
    assert mirrored(resolve("a photo of a donut below a cat")).prompt == "a photo of a donut below a cat"


def test_pairs_are_printed_once_and_found_again():
    prompts = counterfactual_prompts(official_suite())
    # Two of the 200 prompts mean the same: "a laptop left of a cow" and "a cow right of a laptop".
    assert len(prompts) == 2 * 199
    assert counterfactual_pairs(prompts) == [(n, n + 1) for n in range(0, 398, 2)]
    assert counterfactual_prompts(prompts) == prompts


def test_a_pair_is_found_in_whatever_words():
    one = {"tag": "position", "include": [{"class": "cup", "count": 1}, {"class": "cow", "count": 1}]}
    other = {"tag": "position", "include": [{"class": "cow", "count": 1}, {"class": "cup", "count": 1}]}
    one["include"][1]["position"] = other["include"][1]["position"] = ["left of", 0]
    assert counterfactual_pairs([PromptSpec.parse(one), resolve("a photo of a bench"), PromptSpec.parse(other)]) == [
        (0, 2)
    ]


def test_held_out_pairs_never_mean_an_official_prompt():
    official = {meaning(spec) for spec in official_suite()}
    drawn = [counterfactual(spec) for spec in official_suite() if spec.tag == "position"][:20]
    assert counterfactual_prompts(drawn, held_out=True) == []
    assert not official & {meaning(s) for s in counterfactual_prompts(training_prompts(100, 5), held_out=True)}
