"""Evaluation of models: likelihood in bits per sample (`likelihood`) and a baseline by linear prediction
(`linear_prediction`), distances between generated and real audio (`distances`), and a classifier of spoken
digits (`classifier`)."""
