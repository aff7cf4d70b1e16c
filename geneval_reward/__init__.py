"""The GenEval score as a metric, a reward and a Lightning callback."""

__version__ = "0.1.0"
