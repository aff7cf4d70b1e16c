"""Weights spread over two processes: the same losses, weights and checkpoints as of one process that holds all of them."""

import json
from pathlib import Path

import pytest
import torch

from geneval_reward.train.audit import AuditReport

HERE = Path(__file__).parent


def load(path):
    return torch.load(path, weights_only=False)


def flat(named):
    return torch.cat([tensor.flatten() for tensor in named.values()])


def assert_states_equal(one, two):
    """Whole tensors of equal names; AdamW's first steps divide rounding errors by themselves, hence norms."""
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert tensor.shape == two[name].shape
        assert type(two[name]) is torch.Tensor, name
    assert float((flat(one) - flat(two)).norm()) <= 2e-4 * float(flat(one).norm())


def without_audit(row):
    """A resumed run has no numbers of the audit before its first one."""
    audit = AuditReport(0, 0, 0, 0, 0, (), 1).log_dict()
    return {name: value for name, value in row.items() if name not in audit}


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_sharded_runs_equal_whole_ones_and_read_their_checkpoints(worker, two_processes, assert_rows_equal, tmp_path):
    singles, out = {}, tmp_path / "out.json"
    for case in worker.SHARDED:
        singles[case] = worker.sharded_run(case, 1, tmp_path / case, 3)
    with two_processes(out, "--sharded"):
        pass
    pairs = json.loads(out.read_text())
    for case, (module, rows) in singles.items():
        pair = pairs[case]
        assert rows[0]["unscored"] == 3
        idled = pair["idled"]  # where one process alone would have made no passes, the other would wait for ever
        assert idled[0] != idled[1], case
        # Adapters alone are whole on each rank.
        assert pair["whole"] == (["Parameter"] if module.weights.lora else []), case
        assert_rows_equal(rows[:2], pair["rows"], case)
        # The third epoch: on two processes from one's checkpoint, and on one from theirs.
        assert "geneval/audit_gap" in rows[2]
        third = [without_audit(row) for row in rows[2:]]
        assert_rows_equal(third, pair["resumed"], case)
        two = tmp_path / f"{case}-two" / "epoch-00002.ckpt"
        _, theirs = worker.sharded_run(case, 1, tmp_path / "theirs", 3, two)
        assert_rows_equal(third, theirs, case)
        images = torch.stack(module.generate(["a", "b"], [1, 2], 2)).int()
        assert int((images - torch.tensor(pair["images"])).abs().max()) <= 1

        one, two = load(tmp_path / case / "epoch-00002.ckpt"), load(two)
        for part in ("trained", "old"):
            if one["flow_rl"][part]:
                assert_states_equal(one["flow_rl"][part], two["flow_rl"][part])
        assert_states_equal(one["flow_rl"]["ema"]["averages"], two["flow_rl"]["ema"]["averages"])
        states = [state["optimizer_states"][0]["state"] for state in (one, two)]
        for name in ("exp_avg", "exp_avg_sq"):
            assert_states_equal(*({index: values[name] for index, values in state.items()} for state in states))
