"""Generators: the protocol, seeds per (prompt, index), the diffusers adapter."""

from geneval_reward.sampling.diffusers import DiffusersGenerator
from geneval_reward.sampling.generator import Generator
from geneval_reward.sampling.seeds import seed_for

__all__ = ["DiffusersGenerator", "Generator", "seed_for"]
