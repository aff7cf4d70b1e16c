"""Scoring on a Ray cluster: whole data sets by resumable shards, and a pool of actors as a reward."""
