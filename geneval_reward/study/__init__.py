"""Commands over results files: summaries, comparisons, sweeps, reports, agreement with people."""
