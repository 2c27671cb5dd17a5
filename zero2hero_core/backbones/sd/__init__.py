"""UNets of the Stable Diffusion family: loading, one surface for the stages."""
