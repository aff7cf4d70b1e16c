"""TRL: the arguments of its trainer replayed, and a real step of its GRPOTrainer where it is installed."""

import asyncio
import copy
import functools
import inspect
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from geneval_reward.errors import ImageError, SpecError
from geneval_reward.reward.trainers.trl import AsyncTRLReward, TRLReward

BENCH, COW = "a photo of a bench", "a photo of a cow"
BRIGHT, DARK = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16))
RECORD = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "crimson"}
SYNC_AND_ASYNC = pytest.mark.parametrize("view", [TRLReward, AsyncTRLReward])


class State:
    global_step = 7


def call(reward_func, prompts, completions, **columns):
    """As `GRPOTrainer._calculate_rewards` calls, sync or async, and turns None into NaN."""
    extra, metrics = {}, {}
    arguments = {
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [[1, 2]] * len(prompts),
        **columns,
        "trainer_state": State(),
        "log_extra": extra.__setitem__,
        "log_metric": metrics.__setitem__,
    }
    if inspect.iscoroutinefunction(reward_func) or inspect.iscoroutinefunction(reward_func.__call__):

        async def gathered():
            return (await asyncio.gather(reward_func(**arguments), reward_func(**arguments)))[0]

        output = asyncio.run(gathered())
    else:
        output = reward_func(**arguments)
    assert len(output) == len(prompts)
    torch.tensor([torch.nan if reward is None else reward for reward in output])
    return output, extra, metrics


@SYNC_AND_ASYNC
def test_rewards_reasons_and_curves(view, make_reward):
    reward_func = view(make_reward("partial"))
    output, extra, metrics = call(reward_func, [BENCH, COW, BENCH], [BRIGHT, BRIGHT, DARK])
    assert output == [1.0, 0.0, 0.0]
    assert extra == {"geneval_reason": ["", "expected cow>=1, found 0", "expected bench>=1, found 0"]}
    assert metrics["geneval/official"] == pytest.approx(1 / 3)
    assert set(metrics) == {f"geneval/{name}" for name in ("official", "strict", "partial", "dense", "flow_grpo")}
    assert reward_func.__name__ == "geneval_partial"


@SYNC_AND_ASYNC
@pytest.mark.parametrize(
    "columns",
    [
        {"metadata": [RECORD, RECORD]},
        {"metadata": [json.dumps(RECORD)] * 2},
        {"tag": ["colors"] * 2, "include": [RECORD["include"]] * 2, "exclude": [None, None]},
    ],
)
def test_columns_say_what_is_asked(view, columns, make_reward):
    output, _, _ = call(view(make_reward()), ["crimson", "scarlet"], [BRIGHT, DARK], **columns)
    assert output == [1.0, 0.0]


@SYNC_AND_ASYNC
def test_images_within_chats(view, make_reward):
    prompts = [[{"role": "user", "content": BENCH}]] * 2
    completions = [
        [{"role": "assistant", "content": [{"type": "text", "text": "here:"}, {"type": "image", "image": image}]}]
        for image in (BRIGHT, DARK)
    ]
    assert call(view(make_reward()), prompts, completions)[0] == [1.0, 0.0]
    assert call(view(make_reward()), [BENCH] * 2, torch.stack([torch.ones(3, 8, 8), torch.zeros(3, 8, 8)]))[0] == [1, 0]


@SYNC_AND_ASYNC
def test_a_policy_that_writes_is_rendered(view, make_reward):
    def render(completions):
        return [BRIGHT if "light" in text else DARK for text in completions]

    reward_func = view(make_reward(), render=render)
    assert call(reward_func, [BENCH] * 2, ["more light", "more night"])[0] == [1.0, 0.0]


@SYNC_AND_ASYNC
def test_none_for_what_cannot_be_scored(view, make_reward):
    broken = np.full((16, 16, 3), np.nan)
    output, extra, _ = call(view(make_reward()), [BENCH, BENCH, "what is this"], [BRIGHT, broken, BRIGHT])
    assert output == [1.0, None, None]
    assert extra["geneval_reason"][1].startswith("images[1]: expected finite values")
    assert "prompts[2]: prompt: expected a prompt text" in extra["geneval_reason"][2]


@SYNC_AND_ASYNC
def test_rows_of_another_task(view, make_reward):
    """A data set of several tasks: None rows, and a whole batch of them, which only `mixed` allows."""
    metadata = [None, RECORD, {}]
    output, _, _ = call(view(make_reward()), ["2 + 2?", "crimson", "2 + 3?"], ["4", BRIGHT, "5"], metadata=metadata)
    assert output == [None, 1.0, None]
    sums = (["2 + 2?"] * 2, ["4", "5"])
    with pytest.raises(SpecError, match="got 2 that cannot"):
        call(view(make_reward()), *sums)
    assert call(view(make_reward(), mixed=True), *sums)[0] == [None, None]
    with pytest.raises(ImageError):  # broken pictures are not another task
        call(view(make_reward(), mixed=True), [BENCH], [np.full((16, 16, 3), np.nan)])


@SYNC_AND_ASYNC
def test_counts_must_agree(view, make_reward):
    with pytest.raises(ValueError, match="metadata: expected 1, one per prompt, got 2"):
        call(view(make_reward()), [BENCH], [BRIGHT], metadata=[RECORD, RECORD])
    with pytest.raises(ValueError, match="prompts: expected 2, one per image, got 1"):
        call(view(make_reward()), [BENCH], [BRIGHT, BRIGHT])


def test_each_version_of_trl_knows_the_coroutine(make_reward):
    """Older versions ask inspect about the callable, newer ones about its `__call__`; partials are unwrapped."""
    for function, is_async in ((TRLReward(make_reward()), False), (AsyncTRLReward(make_reward()), True)):
        assert inspect.iscoroutinefunction(function) == is_async
        assert inspect.iscoroutinefunction(function.__call__) == is_async
        assert inspect.iscoroutinefunction(functools.partial(function, log_extra=None)) == is_async
        assert not isinstance(function, torch.nn.Module)
        assert list(inspect.signature(function).parameters)[:3] == ["prompts", "completions", "completion_ids"]


@SYNC_AND_ASYNC
def test_it_pickles_copies_and_takes_threads(view, make_reward):
    first = view(make_reward("dense"), mixed=True)
    for other in (first, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert (other.mixed, other.__name__) == (True, "geneval_dense")
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(call, other, [BENCH] * 2, pair) for pair in ([BRIGHT, DARK], [DARK, BRIGHT]) * 8]
        answers = [[value > 0.5 for value in future.result()[0]] for future in asked]
        assert answers == [[True, False], [False, True]] * 8
        other.reward.close()


@pytest.mark.slow
def test_a_step_of_the_real_trainer(tmp_path, make_reward):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *BENCH.split(), "cow", *(f"w{n}" for n in range(20))]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    torch.manual_seed(0)
    size = core.get_vocab_size()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=1, n_head=2, eos_token_id=1))

    seen = []

    def render(completions):
        seen.append(list(completions))
        return [BRIGHT if "w" in text else DARK for text in completions]

    data = datasets.Dataset.from_list(
        [{"prompt": BENCH, "metadata": None}, {"prompt": "crimson", "metadata": json.dumps(RECORD)}] * 2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=[
                TRLReward(make_reward(), render=render),
                AsyncTRLReward(make_reward("partial"), render=render),
            ],
            args=trl.GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=4,
                num_generations=2,
                max_completion_length=4,
                max_steps=2,
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                save_strategy="no",
                log_completions=False,
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=data,
        )
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "rewards/geneval/mean" in entry]
    assert len(logs) == 2
    expected = [np.mean(["w" in text for text in batch]) for batch in seen[::2]]
    assert [entry["rewards/geneval/mean"] for entry in logs] == pytest.approx(expected)
    assert all(entry["rewards/geneval/mean"] == entry["rewards/geneval_partial/mean"] for entry in logs)
    assert all(entry["geneval/strict"] == pytest.approx(mean) for entry, mean in zip(logs, expected, strict=True))
