"""Engines: other ways of drawing the same samples from a trained model, faster; and the live stream."""

from sashimi_lib.streaming.engine import compiled, fastest
from sashimi_lib.streaming.graph import graphed
from sashimi_lib.streaming.live import Stream, stream

__all__ = ["Stream", "compiled", "fastest", "graphed", "stream"]
