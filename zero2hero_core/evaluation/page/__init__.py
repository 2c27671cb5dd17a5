"""The figures page: tables, plots and pictures of what was measured."""
