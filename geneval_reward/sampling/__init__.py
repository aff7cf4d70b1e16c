"""Generators: the protocol, its adapters, seeds per (prompt, index), and folders of images made with them."""

from geneval_reward.sampling.callable import CallableGenerator
from geneval_reward.sampling.diffusers import DiffusersGenerator
from geneval_reward.sampling.generator import Generator
from geneval_reward.sampling.load import load_generator
from geneval_reward.sampling.rewrites import read_rewrites
from geneval_reward.sampling.seeds import seed_for
from geneval_reward.sampling.shards import Shard
from geneval_reward.sampling.stored import FolderGenerator
from geneval_reward.sampling.subset import Subset, stratified_subset, subset_standard_error
from geneval_reward.sampling.tokens import SeededTokens
from geneval_reward.sampling.write import ImageJob, MadeBatch, plan_images, write_images

__all__ = [
    "CallableGenerator",
    "DiffusersGenerator",
    "FolderGenerator",
    "Generator",
    "ImageJob",
    "MadeBatch",
    "SeededTokens",
    "Shard",
    "Subset",
    "load_generator",
    "plan_images",
    "read_rewrites",
    "seed_for",
    "stratified_subset",
    "subset_standard_error",
    "write_images",
]
