"""What every process of the test of several processes runs: measurements, written down by each process."""

import sys
import warnings
from pathlib import Path

import torch
from torch import distributed, nn

from gsnr_toolkit.errors import EngineError, ProbeError
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.probing.estimate import estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.setup import engine_choice
from gsnr_toolkit.setup.distributed import broadcast_model, current_ranks, launched_group


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def batches(count=53, size=6):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    labels = (inputs[:, 0] + 0.3 * inputs[:, 1] > 0).long()
    return [(inputs[i : i + size], labels[i : i + size]) for i in range(0, count, size)]


class NoLength:
    """A loader that cannot tell how long it is."""

    def __iter__(self):
        return iter(batches())


class Tiring(TapsEngine):
    """Gives up at the second batch of samples, in every process by itself."""

    calls = 0

    def accumulate(self, *args, **options):
        self.calls += 1
        if self.calls > 1:
            raise EngineError("expected more of the same")
        return super().accumulate(*args, **options)


def tired():
    kept, engine_choice.TapsEngine = engine_choice.TapsEngine, Tiring
    try:
        return estimate_gsnr(model(), batches(size=53), progress=False, groups="parameter")
    finally:
        engine_choice.TapsEngine = kept


def measurements():
    options = {"progress": False, "groups": "parameter"}
    yield "cor", estimate_cor(model(), batches(), batch_size=6, **options)
    yield "each group", estimate_cor(model(), batches(), batch_size=6, perturb="group", radii=(0.1, 1.0), **options)
    yield "groups", estimate_gsnr(model(), batches(), detail="group", **options)
    yield "no length", estimate_gsnr(model(), NoLength(), **options)
    yield "few", estimate_gsnr(model(), batches(5, 2), **options)
    yield "run", probe(model(), batches(), steps=3, measurements=2, batch_size=6, **options)
    yield "tired", tired()
    if current_ranks().size > 1:
        yield "wrapped", estimate_gsnr(nn.parallel.DistributedDataParallel(model()), batches(), **options)
    else:
        yield "wrapped", estimate_gsnr(model(), batches(), **options)


def broadcast_makes_models_equal():
    torch.manual_seed(current_ranks().rank)
    mine = nn.Linear(3, 2)
    broadcast_model(mine, current_ranks())
    torch.manual_seed(0)
    torch.testing.assert_close(mine.weight, nn.Linear(3, 2).weight, rtol=0, atol=0)


def sharded_models_are_refused():
    from torch.distributed.fsdp import fully_shard

    sharded = model()
    fully_shard(sharded, mesh=distributed.init_device_mesh("cpu", (current_ranks().size,)))
    try:
        estimate_gsnr(sharded, batches(), progress=False)
    except ProbeError as error:
        assert "is a DTensor" in str(error)  # noqa: PT017 - pytest does not run here
        return
    raise AssertionError("a sharded model was measured")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with launched_group("cpu") as ranks:
        for name, report in measurements():
            report.save(Path(sys.argv[1]) / f"{name} {ranks.rank}", overwrite=True)
        if ranks.size > 1:
            broadcast_makes_models_equal()
            sharded_models_are_refused()
