"""Generators: the protocol, its adapters, seeds per (prompt, index), and folders of generated images."""

from geneval_reward.generate.callable import CallableGenerator
from geneval_reward.generate.diffusers import DiffusersGenerator
from geneval_reward.generate.foreign import ForeignGenerator, ForeignModel
from geneval_reward.generate.generator import Generator
from geneval_reward.generate.load import load_generator, load_pipeline
from geneval_reward.generate.rewrites import read_rewrites
from geneval_reward.generate.seeds import seed_for
from geneval_reward.generate.stored import FolderGenerator
from geneval_reward.generate.subset import Subset, stratified_subset, subset_standard_error
from geneval_reward.generate.token_models import TokenGenerator
from geneval_reward.generate.tokens import SeededTokens
from geneval_reward.generate.write import ImageJob, MadeBatch, plan_images, write_images
from geneval_reward.support.prompt_shards import Shard

__all__ = [
    "CallableGenerator",
    "DiffusersGenerator",
    "FolderGenerator",
    "ForeignGenerator",
    "ForeignModel",
    "Generator",
    "ImageJob",
    "MadeBatch",
    "SeededTokens",
    "Shard",
    "Subset",
    "TokenGenerator",
    "load_generator",
    "load_pipeline",
    "plan_images",
    "read_rewrites",
    "seed_for",
    "stratified_subset",
    "subset_standard_error",
    "write_images",
]
