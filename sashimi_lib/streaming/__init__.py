"""Generation engines, which sample from a trained model's distribution faster, and streaming generation."""

from sashimi_lib.streaming.engine import best_engine, compiled
from sashimi_lib.streaming.graph import graphed
from sashimi_lib.streaming.live import Stream, stream

__all__ = ["Stream", "best_engine", "compiled", "graphed", "stream"]
