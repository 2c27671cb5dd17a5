"""Text-guided video: Rerender-A-Video (arXiv 2306.07954) and FRESCO (arXiv 2403.12962)."""
