"""Files: atomic writes, locks, and tensors with a checked header."""
