"""All that knows ComfyUI: its models, its services, its sockets."""
