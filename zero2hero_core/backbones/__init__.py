"""The models that the stages run on: Stable Diffusion, FLUX, and how their files are read."""
