"""A sweep's folder without its processes: the runs of ``fake_training``, made here and now."""

import torch

from gsnr_toolkit import TrainConfig
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import make_grid
from gsnr_toolkit.sweeps.job import Job, perform
from gsnr_toolkit.sweeps.table import read_row, write_table

FAKE = "tests.support.fake_training:run_training"


def make_sweep(path, axes):
    grid, folder = make_grid(TrainConfig(), axes), SweepFolder(path)
    folder.claim(grid)
    for config in grid.configs:
        paths = (folder.run_folder(config), folder.failure_file(config), folder.log_file(config))
        perform(
            Job(config, *paths, threads=torch.get_num_threads(), function="tests.support.fake_training:run_training")
        )
    write_table(folder, [read_row(folder, config) for config in grid.configs])
    return path
