"""Training: a loop for all models, its settings and recipes, and checkpoints."""
