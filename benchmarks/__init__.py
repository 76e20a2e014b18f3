"""Measurements that the book reports, one script a question: ``python -m benchmarks.speed.throughput
--help``."""
