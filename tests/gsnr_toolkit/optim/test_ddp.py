"""Two processes over gloo: synchronised ascent, an ascent per process, and decisions that all processes share."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from gsnr_toolkit import SAM, AutoRho
from gsnr_toolkit.optim import MarginRadius, WarmStart, sam_step
from tests.support.sam_reference import bits, literal_gradient, literal_sgd, losses, make_batch, make_model

LR, RHO, STEPS = 0.3, 0.4, 3


def shard(batch, rank):
    return tuple(part[rank * 6 : rank * 6 + 6] for part in batch)


def train(interface, model, optimizer, rank):
    calls = []
    for step in range(STEPS):
        batch = shard(make_batch(step), rank)

        def closure(batch=batch, step=step):
            loss = losses(model, batch).mean()
            loss.backward()
            calls.append(step)
            return loss

        if interface == "synchronised":
            optimizer.step(closure)
        elif interface in ("local", "local, one plain step"):
            optimizer.step(closure, local_ascent=model)
        elif "two steps" in interface:
            optimizer.zero_grad()
            with model.no_sync():
                closure()
            if optimizer.first_step(local_ascent=model):
                closure()
            optimizer.second_step()
        else:
            kind = "micro" if "micro" in interface else "batch"
            sam_step(model, batch, losses, optimizer, 3, sharpness=kind, local_ascent="local" in interface)
    return calls


def overflow(model, optimizer, rank):
    """The second process alone meets an overflow, first in its ascent, later in its descent."""
    scaler, calls, record = torch.amp.GradScaler("cpu", init_scale=1024.0), [], []
    for _ in range(4):

        def closure():
            loss = losses(model, shard(make_batch(), rank)).mean()
            factor = float("inf") if rank == 1 and len(calls) in (0, 2) else 1.0  # ascent, then descent
            calls.append(1)
            scaler.scale(loss * factor).backward()

        optimizer.step(closure, scaler=scaler, local_ascent=model)
        scaler.update()
        record.append((optimizer.skipped, scaler.get_scale(), len(calls)))
    return record


def work(rank, folder, interface):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        bare = make_model()
        model = fully_shard(bare) if interface == "sharded" else DistributedDataParallel(bare)
        schedule = WarmStart(1) if "one plain step" in interface else None
        rho = RHO
        if interface == "controller":
            # without an agreement the processes would take different numbers of backwards, and wait forever
            rho = AutoRho(bare, [], every=1, rho_max=RHO, safety=1.0, probe=lambda: 0.1 if rank == 0 else 0.0)
        if interface == "auto":
            rho = MarginRadius(1.0)  # each process sees other losses, and all take one radius
        optimizer = SAM(model, lr=LR, rho=rho, rho_schedule=schedule)
        record = None
        if interface == "overflow":
            record = overflow(model, optimizer, rank)
        else:
            plain = interface in ("controller", "sharded", "auto")
            record = train("synchronised" if plain else interface, model, optimizer, rank)
        weights = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in bits(bare)]
        torch.save({"weights": weights, "record": record, "radii": optimizer.radii}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def spawn(interface):
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.start_processes(
            work, args=(folder, interface), nprocs=2, start_method="fork", join=False
        )
        for _ in range(60):
            if context.join(timeout=1):
                break
        else:
            for process in context.processes:
                process.kill()
            pytest.fail("two processes wait for each other")
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]


def literal(interface):
    """One process that sees both shards."""
    model = make_model()
    for step in range(STEPS):
        batch = make_batch(step)
        rho = 0.0 if "one plain step" in interface and step == 0 else RHO
        rho = 0.1 if interface == "controller" else rho
        if "micro" in interface:
            cuts = [tuple(part[i : i + 3] for part in batch) for i in range(0, 12, 3)]
        elif "local" in interface:
            cuts = [shard(batch, 0), shard(batch, 1)]
        else:
            cuts = [batch]
        grads = [literal_gradient(model, part, rho) for part in cuts]
        literal_sgd(model, [torch.stack(same).mean(0) for same in zip(*grads, strict=True)], LR)
    return bits(model)


INTERFACES = [
    "synchronised",
    "local",
    "local, two steps",
    "local, one plain step",
    "local, two steps, one plain step",
    "controller",
    "sharded",
]
HELPER = ["helper", "helper, local", "helper, micro"]

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo and processes that fork"
)


@pytest.mark.parametrize("interface", INTERFACES + HELPER)
def test_two_processes_equal_one(interface):
    first, second = spawn(interface)
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    torch.testing.assert_close(first["weights"], literal(interface), rtol=1e-6, atol=1e-6)
    if interface == "local, one plain step":
        assert first["record"] == [0, 1, 1, 2, 2]  # a plain step runs the closure once, and exchanges gradients there
    if interface == "controller":
        assert first["radii"] == second["radii"] == (0.1,)


def test_auto_takes_one_radius_in_all_processes():
    first, second = spawn("auto")
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    model, rule, radii = make_model(), MarginRadius(1.0), []
    for step in range(STEPS):
        batch = make_batch(step)
        loss = losses(model, batch).mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        radii.append(rule.observe(step, loss.item(), torch.cat([grad.flatten() for grad in grads]).norm().item()))
        literal_sgd(model, literal_gradient(model, batch, radii[-1]), LR)
    assert min(radii) > 0
    assert first["radii"] == second["radii"] == (pytest.approx(radii[-1], rel=1e-6),)
    torch.testing.assert_close(first["weights"], bits(model), rtol=1e-6, atol=1e-6)


def test_the_two_kinds_of_ascent_differ():
    gap = (literal("local")[0] - literal("synchronised")[0]).abs().max()
    assert gap > 1e-3


def test_an_overflow_in_one_process_is_every_process_s():
    first, second = spawn("overflow")
    assert first["record"] == second["record"]
    # step 0: bad ascent in process 1; step 1: its second backward is bad, and averaged into both; then two good ones
    assert [skipped for skipped, _, _ in first["record"]] == [1, 2, 2, 2]
    assert [scale for _, scale, _ in first["record"]] == [512.0, 256.0, 256.0, 256.0]
    assert [calls for _, _, calls in first["record"]] == [1, 3, 5, 7]
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert all(torch.isfinite(weight).all() for weight in first["weights"])
