"""Whether results are numerically right: stability in float32, the same training on CPU and GPU."""
