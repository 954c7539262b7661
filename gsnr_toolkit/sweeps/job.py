"""One run as a job for another process: what it needs, and where its errors go."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import write_json
from gsnr_toolkit.support.locks import wait_until_free
from gsnr_toolkit.support.lookup import load_target
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["TRAIN", "Job", "perform", "write_failure"]

#: The function that trains a run.
TRAIN = "gsnr_toolkit.training.run:run_training"

_PATIENCE = 20.0


@dataclass(frozen=True)
class Job:
    """A run for another process, possibly on another machine with the same file system.

    Attributes:
        config: What to train.
        folder: Where the files of the run go.
        failure: File for the reason if the run fails.
        log: File for the output of the process.
        threads: Number of torch threads.
        device: Where to train; the first GPU, or else the CPU, when None.
        function: ``"module:function"`` that trains.
    """

    config: TrainConfig
    folder: Path
    failure: Path
    log: Path
    threads: int = 1
    device: str | None = None
    function: str = TRAIN

    def to_json(self) -> str:
        """Return the job as JSON, for a command line."""
        paths = {name: str(getattr(self, name)) for name in ("folder", "failure", "log")}
        rest = {"threads": self.threads, "device": self.device, "function": self.function}
        return json.dumps({"config": self.config.to_dict(), **paths, **rest})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what :meth:`to_json` wrote.

        Args:
            text: JSON.

        Returns:
            An equal job.
        """
        values = json.loads(text)
        folder, failure, log = (Path(values.pop(name)) for name in ("folder", "failure", "log"))
        return cls(TrainConfig.from_dict(values.pop("config")), folder, failure, log, **values)


def perform(job: Job) -> bool:
    """Train in this process; write an error to the job's failure file instead of raising it.

    Args:
        job: The run.

    Returns:
        Whether the run succeeded.
    """
    import torch

    torch.set_num_threads(job.threads)
    # a run whose sweep was killed may need a moment to end
    wait_until_free(job.folder, _PATIENCE)
    try:
        load_target(job.function)(job.config, job.folder, device=job.device)
    except Exception as error:  # any error: the other runs continue, and the table reports this one
        kind = "" if isinstance(error, ProbeError) else f"{type(error).__name__}: "
        write_failure(job, f"{kind}{error}", traceback.format_exc())
        return False
    return True


def write_failure(job: Job, message: str, details: str = "") -> None:
    """Write the failure file of a run.

    Args:
        job: The run.
        message: The reason, a sentence.
        details: The traceback.
    """
    job.failure.parent.mkdir(parents=True, exist_ok=True)
    write_json(job.failure, {"message": message, "traceback": details, "config": job.config.to_dict()})
