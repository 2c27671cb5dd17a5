"""Rendered scenes with exact correspondence and a second appearance."""
