"""Evidence that anyone can make again: methods on tasks, measured, kept, and written down as tables and plots."""
