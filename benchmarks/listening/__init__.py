"""Audio clips that chapters play."""
