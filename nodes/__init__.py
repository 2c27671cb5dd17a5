"""The ComfyUI nodes: they convert, call the core, and convert back. Only `host` imports the host."""
