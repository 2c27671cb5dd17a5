"""The laws of diffusion: DDIM, flow matching, AdaIN."""
