"""``python -m gsnr_toolkit`` is ``gsnr-probe``."""

from gsnr_toolkit.commands.probe import main

main()
