"""What any room may use: whole-file writes, import paths, out-of-memory halving, agreement of ranks."""
