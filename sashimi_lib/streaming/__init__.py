"""Engines: faster ways of drawing from the same distribution as a trained model; and the live stream."""

from sashimi_lib.streaming.engine import best_engine, compiled
from sashimi_lib.streaming.graph import graphed
from sashimi_lib.streaming.live import Stream, stream

__all__ = ["Stream", "best_engine", "compiled", "graphed", "stream"]
