"""``python -m flowkit``: the command line."""

from flowkit.command_line import main

if __name__ == "__main__":
    main()
