"""An optimizer around another: one set of groups, one state, and a state dict in the base optimizer's own form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.optim.displacement import Displacement, plain_norm
from gsnr_toolkit.optim.rho import RadiusController
from gsnr_toolkit.support.warn import warn_user

OWN_STATE = "sam"
COUNTERS = ("steps", "skipped", "unperturbed")
_IN_GROUP = "sam_{}"  # where only "state" and "param_groups" survive, as in torch.distributed.checkpoint


class AroundBase(Optimizer):
    """An optimizer that lets another one take the step, and shares its groups and its state.

    Attributes:
        grad_norm: Norm of the last step's mini-batch gradient before the ascent, over the perturbed parameters (ASAM's
            for ASAM), unscaled and unclipped.
        watch_norm: Compute it in plain steps too, which have no need of it.
    """

    grad_norm: float = math.nan
    watch_norm: bool = False
    adaptive: bool
    adaptive_eta: float
    base_optimizer: Optimizer
    _perturbed: set[Tensor]
    _displaced: Displacement
    _told: set[str]

    @property
    def _controller(self) -> RadiusController | None:
        raise NotImplementedError

    def restore(self) -> None:
        """Abandon an unfinished step."""
        raise NotImplementedError

    def _note_norm(self, radii: tuple[float, ...], scaler: torch.amp.GradScaler | None) -> None:
        """Forget the last norm; measure that of a plain step if it is wanted."""
        self.grad_norm = math.nan
        if self.watch_norm and not any(radii):
            eta = self.adaptive_eta if self.adaptive else None
            scale = 1.0 if scaler is None else scaler.get_scale()
            self.grad_norm = plain_norm(self.param_groups, self._perturbed, eta) / scale

    def _share_state(self) -> None:
        """Take the base optimizer's groups and state for one's own."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def __getattr__(self, name: str) -> Any:
        # What only the base optimizer has: train() and eval() of schedule-free optimizers, for example.
        base = self.__dict__.get("base_optimizer")
        if base is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(base, name)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base optimizer, radii, the schedule's position, counters and the controller's state.

        Returns:
            A dictionary for ``torch.save``.

        Raises:
            ProbeError: If the weights are perturbed, because a checkpoint of them would be wrong.
        """
        if self._displaced:
            raise ProbeError("expected unperturbed weights to save, got an unfinished step; save after second_step()")
        own: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        state = self.base_optimizer.state_dict() if saves_itself(self.base_optimizer) else super().state_dict()
        state = with_counters(state, own)
        if self._controller is not None:
            own["controller"] = self._controller.state_dict()
        return {**state, OWN_STATE: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state, of this class or of a plain base optimizer.

        Args:
            state_dict: The result of :meth:`state_dict`.
        """
        self.restore()
        self._displaced.watch.forget()
        radii = [group["rho"] for group in self.param_groups]
        loaded = {key: value for key, value in state_dict.items() if key != OWN_STATE}
        if saves_itself(self.base_optimizer):
            self.base_optimizer.load_state_dict(loaded)
        else:
            super().load_state_dict(loaded)
            self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
        self._share_state()
        for group, rho in zip(self.param_groups, radii, strict=True):
            group.setdefault("rho", rho)
        own = state_dict.get(OWN_STATE, {})
        for name, value in take_counters(self.param_groups, own).items():
            setattr(self, name, value)
        if self._controller is not None and "controller" in own:
            self._controller.load_state_dict(own["controller"])

    def _tell(self, kind: str, message: str) -> None:
        """Warn once per kind."""
        if kind not in self._told:
            self._told.add(kind)
            warn_user(message)

    def __getstate__(self) -> dict[str, Any]:
        # Learning-rate schedulers set an instance attribute "step", a wrapper that cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if name != "step" and "_hooks" not in name}


def saves_itself(base: Optimizer) -> bool:
    """Whether an optimizer has a ``state_dict`` or ``load_state_dict`` of its own, as those with slow weights have."""
    kind = type(base)
    return kind.state_dict is not Optimizer.state_dict or kind.load_state_dict is not Optimizer.load_state_dict


def with_counters(state: dict[str, Any], counters: dict[str, int]) -> dict[str, Any]:
    """Add counters to every parameter group of a state dict, if it has groups."""
    if "param_groups" not in state:
        return state
    named = {_IN_GROUP.format(name): value for name, value in counters.items()}
    return {**state, "param_groups": [{**group, **named} for group in state["param_groups"]]}


def take_counters(groups: list[dict[str, Any]], own: dict[str, Any]) -> dict[str, int]:
    """Remove the counters from loaded parameter groups; SAM's own entry decides where there is one."""
    found: dict[str, int] = {}
    for name in COUNTERS:
        values = [group.pop(_IN_GROUP.format(name), 0) for group in groups]
        found[name] = own.get(name, values[0] if values else 0)
    return found


def is_priming(groups: list[dict[str, Any]]) -> bool:
    """Whether a step without a closure can change nothing: every learning rate and every gradient is zero.

    ``torch.distributed.checkpoint.state_dict`` takes such a step to let an optimizer create its state.

    Returns:
        False if there is no gradient at all.
    """
    if any(float(group.get("lr", 1.0)) != 0.0 for group in groups):
        return False
    grads = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    return bool(grads) and not any(bool(grad.any()) for grad in grads)
