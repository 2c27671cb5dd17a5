"""Training of the LoRA: pairs, latents, views, steps, checkpoints, log."""
