from __future__ import annotations

import pytest
import torch

from geneval_reward.support import inference as module
from geneval_reward.support.inference import precision_scope, resolve_precision


def test_auto() -> None:
    assert resolve_precision("auto", "cpu") == "fp32"
    assert resolve_precision("auto", "cuda") == "fp16"
    assert resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(ValueError, match="expected one of auto, fp32"):
        resolve_precision("half", "cpu")
    with pytest.raises(ValueError, match="got 'tf32'"):
        resolve_precision("tf32", "cpu")


@pytest.mark.parametrize("outer", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("inner", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_holds_under_any_outer_autocast(outer: torch.dtype | None, inner: str, dtype: torch.dtype) -> None:
    layer, pixels = torch.nn.Linear(4, 4), torch.zeros(2, 4)
    with torch.autocast("cpu", dtype=outer, enabled=outer is not None):
        with precision_scope(inner, "cpu"):
            result = layer(pixels)
        after = layer(pixels)
    assert result.dtype == dtype
    assert not result.requires_grad
    assert after.dtype == (outer or torch.float32)
    assert after.requires_grad


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("on", [True, False])
def test_tf32_flags_are_given_back(on: bool, legacy: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = legacy
        flags = matmul.allow_tf32, cudnn.allow_tf32
        with module._tf32(on):
            if hasattr(matmul, "fp32_precision"):
                assert matmul.fp32_precision == cudnn.conv.fp32_precision == ("tf32" if on else "ieee")
            else:
                assert (matmul.allow_tf32, cudnn.allow_tf32) == (on, on)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == flags
        with pytest.raises(RuntimeError, match="inside"), module._tf32(on):
            raise RuntimeError("inside")
        assert (matmul.allow_tf32, cudnn.allow_tf32) == flags
    finally:
        matmul.allow_tf32 = before
