"""Better images from the same model: make candidates side by side, judge them on the way, and keep the best.

steps    the protocol that a generator must implement
latents  its implementation for flows (SD3, FLUX, pocket) and DDIM (SD 1.5, SDXL, PixArt);  levels  for pocket-tokens
select   selections: random, top, resample, cluster, Feynman-Kac
plan     numbers of candidates and selections; TTS-VAR, best-of-N, importance sampling, Feynman-Kac by name
run      `search`, with lineage and cost
load     generators, rewards and features by name;  generator  a search as a generator
"""

from geneval_reward.search.generator import SearchGenerator, load_search
from geneval_reward.search.load import load_features, load_reward, load_steps
from geneval_reward.search.plan import (
    METHODS,
    Plan,
    best_of_n,
    feynman_kac,
    importance_sampling,
    named_plan,
    tts_var,
)
from geneval_reward.search.run import Check, Cost, Found, search
from geneval_reward.search.select import Cluster, FeynmanKac, First, Group, Random, Resample, Top
from geneval_reward.search.steps import Steps

__all__ = [
    "METHODS",
    "Check",
    "Cluster",
    "Cost",
    "FeynmanKac",
    "First",
    "Found",
    "Group",
    "Plan",
    "Random",
    "Resample",
    "SearchGenerator",
    "Steps",
    "Top",
    "best_of_n",
    "feynman_kac",
    "importance_sampling",
    "load_features",
    "load_reward",
    "load_search",
    "load_steps",
    "named_plan",
    "search",
    "tts_var",
]
