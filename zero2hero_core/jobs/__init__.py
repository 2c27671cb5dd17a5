"""What a command or a node does: frozen requests in, results out; no parser, no printing, no host."""
