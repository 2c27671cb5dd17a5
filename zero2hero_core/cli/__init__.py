"""The command line: parsers and console; the work is done by `jobs` and `evaluation`."""
