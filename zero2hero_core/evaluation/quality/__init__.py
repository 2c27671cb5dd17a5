"""How good: methods on tasks, measured."""
