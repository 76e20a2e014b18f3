"""Training: one readable loop, and what it leaves on disk."""
