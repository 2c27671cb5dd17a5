"""Diffusion transformers of the FLUX family: loading, one surface for the stages."""
