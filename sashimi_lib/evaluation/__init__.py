"""Evaluation of models: likelihood in bits per sample (`likelihood`) and a baseline (`linear_prediction`),
distances between generated and real audio (`distances`), and what generated audio sounds like: its pitch and
notes (`pitch`, `melody`), onsets (`onsets`), noise (`noise`), and spoken words (`words`, by the `classifier`
of digits)."""
