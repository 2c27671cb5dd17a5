"""The LoRA on condition tokens and its files."""
