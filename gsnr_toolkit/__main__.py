"""``python -m gsnr_toolkit`` is ``gsnr-probe``."""

from gsnr_toolkit.cli import main

main()
