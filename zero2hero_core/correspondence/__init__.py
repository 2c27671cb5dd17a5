"""For every place of a frame, its place in the anchor: matching, following, narrowing, the file and pictures of it."""
