"""Generators: the protocol, seeds per (prompt, index), the diffusers adapter."""
