"""Run the command ``corit`` as ``python -m corit``."""

from corit.cli import main

if __name__ == "__main__":
    main()
