"""Attention that a stage captures in one pass and injects in another: one hook type, masked cross-image attention,
condition tokens."""
