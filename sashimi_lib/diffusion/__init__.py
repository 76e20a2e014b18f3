"""Diffusion: noise schedules, samplers over any denoiser, and the model of sound that they make."""
