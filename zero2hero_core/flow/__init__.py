"""Optical flow between frames (DIS, RAFT) and warping along it."""
