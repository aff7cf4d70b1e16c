from geneval_reward.support.counts import counted


def test_counts_agree_with_nouns_and_verbs():
    assert [counted(number, "image") for number in (0, 1, 2, 1234)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,234 images",
    ]
    for verb, singular in (("are", "is"), ("were", "was"), ("have", "has"), ("occur", "occurs")):
        assert counted(1, "image", verb) == f"1 image {singular}"
        assert counted(3, "image", verb) == f"3 images {verb}"
