"""How well models do: likelihoods, and the classifier's accuracy on generated digits, after equal
training."""
