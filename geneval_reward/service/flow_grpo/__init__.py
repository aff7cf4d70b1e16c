"""The protocol of the public Flow-GRPO reward server."""
