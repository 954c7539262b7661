"""Run ``gsnr-probe`` as ``python -m gsnr_toolkit``."""

from gsnr_toolkit.commands.probe import main

main()
