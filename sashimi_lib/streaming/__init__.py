"""Engines: other ways of drawing the same samples from a trained model, faster."""

from sashimi_lib.streaming.engine import compiled, fastest
from sashimi_lib.streaming.graph import graphed

__all__ = ["compiled", "fastest", "graphed"]
