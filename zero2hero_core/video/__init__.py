"""Frames, pictures and sound, in and out."""
