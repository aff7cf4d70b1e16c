"""The demo: scenes to judge, and a training run that learns from the verdicts."""
