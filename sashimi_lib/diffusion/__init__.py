"""Diffusion: noise schedules, training objective, samplers for any denoiser, and the diffusion model."""
