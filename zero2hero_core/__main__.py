"""`python -m zero2hero_core`: the command line."""

from zero2hero_core.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
