"""``python -m corit``: the command ``corit``."""

from corit.cli import main

if __name__ == "__main__":
    main()
