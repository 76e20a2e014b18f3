"""State spaces: the mathematics of chapters 2 to 5, as pure functions with one thin layer on top.

Shape letters, the same everywhere: ``batch``, ``length``, ``H`` channels, ``N`` state size (real numbers),
``M = N/2`` conjugate pairs, ``r`` rank of the low-rank term.
"""
