"""Programs to read and to run: ``python -m flowkit.examples.<name> --help``."""
