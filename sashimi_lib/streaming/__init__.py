"""Engines: other ways of drawing the same samples from a trained model, faster."""

from sashimi_lib.streaming.engine import compiled

__all__ = ["compiled"]
