"""The literal twin of a generated program: SAM and ASAM from the formula, with no code of the package."""

import torch
from torch.nn import functional as F

from tests.support.sam_programs import BASES, ETA, HALF, batch_of, groups_of, make_model


class Twin:
    """Takes the steps of a program; counts what the package must have counted."""

    def __init__(self, program):
        self.program, self.model = program, make_model(program)
        self.params = list(self.model.parameters())
        kind, options = BASES[program.base]
        self.base = kind([{"params": group["params"]} for group in groups_of(self.model, program)], **options)
        self.rho = [group.get("rho", 0.1) for group in groups_of(self.model, program) for _ in group["params"]]
        self.skipped = self.forwards = self.overflows = 0

    def gradient(self, step, parts, total, *, infinite):
        """Of the sum over micro-batches of their mean losses, over `total`."""
        sums = [torch.zeros_like(param) for param in self.params]
        for x, y in parts:
            on = self.program.autocast in HALF
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on, cache_enabled=False):
                outputs = self.model(x)
            loss = F.cross_entropy(outputs.to(self.program.dtype), y) / total
            loss = loss * torch.inf if infinite else loss
            # torch casts in a backward too, where it runs inside the block
            within = self.program.autocast in ("outer", "whole", "outer around off")
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=within, cache_enabled=False):
                grads = torch.autograd.grad(loss, self.params)
            sums = [one + two for one, two in zip(sums, grads, strict=True)]
            self.forwards += 1
        return sums

    def sam_gradient(self, step, parts, total, radii):
        """None if a gradient is not finite."""
        first = self.gradient(step, parts, total, infinite=step.overflow == 0)
        if step.overflow == 0:
            return None
        if not any(radii):
            return first
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        old = [param.detach().clone() for param in self.params]
        scale = [w.abs() + ETA if self.program.adaptive else torch.ones_like(w) for w in old]
        moved = [(t * g).norm(dtype=torch.float64) for t, g, r in zip(scale, first, radii, strict=True) if r]
        inverse = 1 / torch.stack(moved).norm()
        with torch.no_grad():
            for param, t, g, rho in zip(self.params, scale, first, radii, strict=True):
                param.add_(rho * (t.square() * (g * inverse)))
            second = self._second(step, parts, total)
            for tensor, value in [*zip(self.params, old, strict=True), *buffers]:
                tensor.copy_(value)
        return None if step.overflow == 1 else second

    @torch.enable_grad()
    def _second(self, step, parts, total):
        return self.gradient(step, parts, total, infinite=step.overflow == 1)

    def take(self, index, step):
        factors = self.program.factors
        radii = [rho * factors[index % len(factors)] for rho in self.rho]
        parts = list(zip(*(tensor.chunk(step.parts) for tensor in batch_of(index, self.program)), strict=True))
        if step.protocol == "m-sharpness" and any(radii):
            each = [self.sam_gradient(step, [part], 1, radii) for part in parts]
            found = None if None in each else [sum(g) / step.parts for g in zip(*each, strict=True)]
        else:
            found = self.sam_gradient(step, parts, step.parts, radii)
        if found is None:
            self.skipped += 1
            return
        for param, grad in zip(self.params, found, strict=True):
            param.grad = grad
        by_hand = step.protocol in ("two steps", "perturbed")
        if step.clip and (by_hand or (step.protocol == "closure" and not self.program.scaler)):
            torch.nn.utils.clip_grad_norm_(self.params, step.clip)
        self.base.step()

    def run(self):
        """Yield the weights and buffers after each step."""
        for index, step in enumerate(self.program.steps):
            self.take(index, step)
            if self.program.scheduler:
                for group in self.base.param_groups:
                    group["lr"] *= 0.5
            yield [value.detach().clone() for value in self.model.state_dict().values()]
