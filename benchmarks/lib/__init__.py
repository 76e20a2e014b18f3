"""What benchmarks share: results, timing, memory, counting, training and evaluation."""
