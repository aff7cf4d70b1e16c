"""Change the structure of a model by plans that are saved as JSON, applied to a pipeline, and undone bit for bit.

plan    the base of all plans: the fingerprint that refuses another model, `apply`, JSON
swaps   replacements and how they are taken back;  stored  bytes of weights in any format
seams   where a model can be cut, found by running it once
blocks  `BlockPlan`: blocks of a denoiser and parts of blocks
text_encoder  `TextEncoderPlan`: sub-blocks skipped or re-used;  sub_blocks  how they are found
quantize  `QuantizePlan`: linear layers in fewer bits
grafts  `GraftPlan`: parts exchanged for operators;  operators  what they are exchanged for
scores  the score of a pipeline on prompts and noise that never change
"""

from geneval_reward.surgery.blocks import BlockPlan, Unit, names_before, removable
from geneval_reward.surgery.grafts import GraftPlan, graft_units, plan_graft
from geneval_reward.surgery.operators import OPERATORS, Place
from geneval_reward.surgery.plan import Applied, Plan, find_part, fingerprint, list_parts, load_plan, save_plan
from geneval_reward.surgery.quantize import QuantizePlan, quantize
from geneval_reward.surgery.seams import Call, recorded_calls
from geneval_reward.surgery.stored import stored_bytes
from geneval_reward.surgery.text_encoder import TextEncoderPlan, parameter_share

__all__ = [
    "OPERATORS",
    "Applied",
    "BlockPlan",
    "Call",
    "GraftPlan",
    "Place",
    "Plan",
    "QuantizePlan",
    "TextEncoderPlan",
    "Unit",
    "find_part",
    "fingerprint",
    "graft_units",
    "list_parts",
    "load_plan",
    "names_before",
    "parameter_share",
    "plan_graft",
    "quantize",
    "recorded_calls",
    "removable",
    "save_plan",
    "stored_bytes",
]
