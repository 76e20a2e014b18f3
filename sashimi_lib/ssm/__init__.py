"""State-space models: the mathematics of chapters 2 to 5 as pure functions, and the S4 layer.

Axes of shapes, in all modules: ``batch``, ``length``, ``H`` channels, ``N`` state size (real numbers),
``M = N/2`` conjugate pairs, ``r`` rank of the low-rank term.
"""
