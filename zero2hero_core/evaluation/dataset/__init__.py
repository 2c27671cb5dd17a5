"""Tasks on disk: clips, references, truths and correspondences."""
