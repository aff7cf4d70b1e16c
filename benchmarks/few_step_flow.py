"""The pocket flow model with few-step samplers of diffusers, to be compared by `geneval-reward sweep`.

    geneval-reward sweep benchmarks/few_step_flow.py:pocket_flow --suite pocket --subset 60 -n 2 --set guidance=3 \
        --grid scheduler=euler,even,lcm,dpm,unipc --grid steps=1,2,4,8 --out out/few_step_flow

`euler`, `even`, `dpm` and `unipc` solve the same equation. `even` is `euler` on evenly spaced noise levels: the scheduler's
own end at .001, so its last step changes next to nothing. `lcm` goes to the predicted picture and adds new noise in every
step (on even levels too), as a consistency model does, but with a model that was not trained for it; its noise comes from
torch's global generator, because pipelines pass none to the scheduler. A step is one run of the network, or two with
guidance.
"""

from typing import Any

import diffusers
import numpy as np
import torch

from geneval_reward.pocket import PocketPipeline, load_pipeline


def pocket_flow(scheduler: str = "euler") -> PocketPipeline:
    """The packaged flow model with another scheduler."""
    pipeline = load_pipeline()
    config = pipeline.scheduler.config
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": config.shift}
    match scheduler:
        case "euler":
            pass
        case "even":
            pipeline.scheduler = EvenEuler.from_config(config)
        case "lcm":
            torch.manual_seed(0)
            pipeline.scheduler = EvenLCM.from_config(config)
        case "dpm":
            pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(**flow)
        case "unipc":
            pipeline.scheduler = diffusers.UniPCMultistepScheduler(**flow)
        case _:
            raise ValueError(f"scheduler: expected euler, even, lcm, dpm or unipc, got {scheduler!r}")
    return pipeline


class _EvenLevels:
    """Noise levels 1, 1 - 1/n, .. 1/n, 0 for `n` steps."""

    def set_timesteps(self, num_inference_steps: int, **options: Any) -> None:
        """Set evenly spaced noise levels."""
        sigmas = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
        super().set_timesteps(sigmas=sigmas, **options)  # type: ignore[misc]


class EvenEuler(_EvenLevels, diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps between evenly spaced noise levels."""


class EvenLCM(_EvenLevels, diffusers.FlowMatchLCMScheduler):  # type: ignore[misc]
    """Sampling as of a consistency model on evenly spaced noise levels."""
