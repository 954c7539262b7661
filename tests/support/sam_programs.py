"""Generated programs of SAM steps: how they are drawn, and how they run with the package.

A program is a set-up and a list of steps; each step names a protocol and what a user does around it. The literal twin
that says what must come out is in `sam_twin`.
"""

import io
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gsnr_toolkit import SAM
from gsnr_toolkit.optim import sam_step
from tests.support.sam_refused import refuse

CALM = {"eps": 0.01}  # so that a rounding error of a gradient near zero does not decide the sign of a step
BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd foreach": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "foreach": False, **CALM}),
    "adamw fused": (torch.optim.AdamW, {"lr": 0.02, "fused": True, **CALM}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.02, "momentum": 0.5, **CALM}),
}
ETA = 0.01
HALF = ("inner", "outer", "whole", "off around inner")  # forms of autocast in which the forward runs in bfloat16


@dataclass(frozen=True)
class Step:
    protocol: str
    parts: int = 1
    overflow: int | None = None  # the pass whose loss is infinite
    clip: float | None = None
    reload: bool = False
    retain_graph: bool = False
    set_to_none: bool = True
    needless: bool = False  # a second backward even if none is needed
    wrong: str | None = None  # an act that SAM must refuse, before the step


@dataclass(frozen=True)
class Program:
    base: str
    steps: tuple[Step, ...]
    adaptive: bool = False
    rho: tuple[float | None, float | None] = (None, None)  # of the two groups; None: SAM's own
    factors: tuple[float, ...] = (1.0,)
    autocast: str | None = None
    scaler: bool = False
    scheduler: str | None = None
    norm: bool = False
    ddp: bool = False
    hooks: bool = False

    @property
    def dtype(self):
        return torch.float64 if self.autocast is None else torch.float32


STEPS = st.builds(
    Step,
    protocol=st.sampled_from(["closure", "two steps", "perturbed", "sam_step", "m-sharpness"]),
    parts=st.integers(1, 3),
    overflow=st.sampled_from([None, None, None, 0, 1]),
    clip=st.sampled_from([None, None, 0.05]),
    reload=st.booleans(),
    retain_graph=st.booleans(),
    set_to_none=st.booleans(),
    needless=st.booleans(),
)
PROGRAMS = st.builds(
    Program,
    base=st.sampled_from(sorted(BASES)),
    steps=st.lists(STEPS, min_size=1, max_size=4).map(tuple),
    adaptive=st.booleans(),
    rho=st.sampled_from([(None, None), (0.3, None), (None, 0.0), (0.0, 0.2), (0.0, 0.0)]),
    factors=st.sampled_from([(1.0,), (0.0, 1.0, 0.5)]),
    autocast=st.sampled_from([None, None, *HALF, "outer around off"]),
    scaler=st.booleans(),
    scheduler=st.sampled_from([None, "sam", "base"]),
    norm=st.booleans(),
    ddp=st.booleans(),
    hooks=st.booleans(),
)


def make_model(program):
    torch.manual_seed(1)
    norm = [nn.BatchNorm1d(4)] if program.norm else []
    return nn.Sequential(nn.Linear(3, 4, bias=not program.norm), *norm, nn.Tanh(), nn.Linear(4, 2)).to(program.dtype)


def groups_of(model, program):
    cut = 3 if program.norm else 2
    params = list(model.parameters())
    groups = [{"params": params[:cut]}, {"params": params[cut:]}]
    return [group if rho is None else {**group, "rho": rho} for group, rho in zip(groups, program.rho, strict=True)]


def batch_of(index, program):
    generator = torch.Generator().manual_seed(index)
    inputs = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    return inputs.to(program.dtype), (inputs[:, 0] * inputs[:, 1] > 0).long()


def cast(on):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=on)


class Run:
    """A program that runs with the package, step by step."""

    def __init__(self, program):
        self.program = program
        self.model = make_model(program)
        self.net = DistributedDataParallel(self.model) if program.ddp else self.model
        self.scaler = torch.amp.GradScaler("cpu") if program.scaler else None
        self.counts = {"gradients": 0, "accumulated": 0, "forwards": 0, "steps": 0, "base steps": 0}
        self.passes = 0  # of the step that runs
        self.optimizer, self.scheduler = self._build()
        if program.hooks:
            last = self.model[-1]
            last.bias.register_hook(lambda _: self.count("gradients"))
            last.bias.register_post_accumulate_grad_hook(lambda _: self.count("accumulated"))
            last.register_forward_hook(lambda *_: self.count("forwards"))

    def count(self, what):
        self.counts[what] += 1

    def _build(self):
        kind, options = BASES[self.program.base]
        factors = self.program.factors
        optimizer = SAM(
            groups_of(self.model, self.program),
            kind,
            rho=0.1,
            adaptive=self.program.adaptive,
            adaptive_eta=ETA,
            rho_schedule=lambda step: factors[step % len(factors)],
            model=self.model,
            **options,
        )
        optimizer.register_step_post_hook(lambda *_: self.count("steps"))
        optimizer.base_optimizer.register_step_post_hook(lambda *_: self.count("base steps"))
        holder = {"sam": optimizer, "base": optimizer.base_optimizer, None: None}[self.program.scheduler]
        return optimizer, holder and torch.optim.lr_scheduler.StepLR(holder, 1, gamma=0.5)

    def reload(self):
        """Save, build everything anew, load."""
        file = io.BytesIO()
        torch.save([self.optimizer.state_dict(), self.scheduler and self.scheduler.state_dict()], file)
        file.seek(0)
        state, scheduler = torch.load(file, weights_only=True)
        self.optimizer, self.scheduler = self._build()
        if self.scheduler:
            self.scheduler.load_state_dict(scheduler)
        self.optimizer.load_state_dict(state)

    def run(self):
        """Yield the weights and buffers after each step."""
        with cast(True) if self.program.autocast == "whole" else nullcontext():
            for index, step in enumerate(self.program.steps):
                batch = batch_of(index, self.program)
                if step.reload:
                    self.reload()
                if step.wrong:
                    refuse(self, step.wrong, batch)
                with ExitStack() as stack:
                    if (self.program.autocast or "").startswith(("outer", "off around")):
                        stack.enter_context(cast(self.program.autocast.startswith("outer")))
                    self.take(step, batch)
                if self.scheduler:
                    self.scheduler.step()
                yield [value.detach().clone() for value in self.model.state_dict().values()]

    def take(self, step, batch):
        self.passes = 0
        if step.protocol in ("sam_step", "m-sharpness"):
            options = {"sharpness": "batch" if step.protocol == "sam_step" else "micro", "scaler": self.scaler}
            each = step.protocol == "m-sharpness" and any(self.optimizer.radii)
            calls = iter(range(100))

            def losses(model, part):
                call = next(calls)
                return self.losses(model, part) * (
                    torch.inf if (call % 2 if each else call // step.parts) == step.overflow else 1.0
                )

            sam_step(self.net, batch, losses, self.optimizer, -(-12 // step.parts), **options)
        elif step.protocol == "closure":
            self.optimizer.step(lambda: self.closure(step, batch), scaler=self.scaler)
        else:
            self.by_hand(step, batch)
        if self.scaler:
            self.scaler.update()

    def losses(self, model, part):
        autocast = self.program.autocast
        if autocast in ("inner", "off around inner", "outer around off"):
            with cast(autocast != "outer around off"):
                outputs = model(part[0])
        else:
            outputs = model(part[0])
        return F.cross_entropy(outputs.to(self.program.dtype), part[1], reduction="none")

    def backward(self, step, batch):
        """One pass over all micro-batches."""
        parts = list(zip(*(tensor.chunk(step.parts) for tensor in batch), strict=True))
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with self.net.no_sync() if self.program.ddp and not last else nullcontext():
                loss = self.losses(self.net, part).mean() / step.parts
                loss = loss * (torch.inf if self.passes == step.overflow else 1.0)
                loss = self.scaler.scale(loss) if self.scaler else loss
                loss.backward(retain_graph=step.retain_graph)
        self.passes += 1

    def closure(self, step, batch):
        self.optimizer.zero_grad(set_to_none=step.set_to_none)
        self.backward(step, batch)
        if step.clip and not self.scaler:
            nn.utils.clip_grad_norm_(self.model.parameters(), step.clip)

    def by_hand(self, step, batch):
        self.optimizer.zero_grad(set_to_none=step.set_to_none)
        self.backward(step, batch)
        with self.ascended(step) as needed:
            if needed or (step.needless and not self.program.norm and step.overflow is None):
                self.backward(step, batch)
        if step.clip:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), step.clip)
        self.optimizer.second_step(scaler=self.scaler)

    @contextmanager
    def ascended(self, step):
        if step.protocol == "perturbed":
            with self.optimizer.perturbed(scaler=self.scaler) as needed:
                yield needed
        else:
            yield self.optimizer.first_step(scaler=self.scaler)
