"""Carrying the edit of a frame to other frames without a diffusion model."""
