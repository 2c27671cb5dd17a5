"""Hero-Stage: a LoRA on condition tokens learns from the edited frame to undo the wear of Zero-Stage."""
