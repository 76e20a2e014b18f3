"""Evaluation of models: likelihood in bits per sample (`likelihood`), distances between generated and real
audio (`distances`), and a classifier of spoken digits (`classifier`)."""
