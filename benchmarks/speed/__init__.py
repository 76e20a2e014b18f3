"""How fast models train and generate, and how much memory they take."""
