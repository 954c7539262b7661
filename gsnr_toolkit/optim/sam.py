"""SAM and ASAM around any torch optimizer.

Sources: Foret et al., ICLR 2021 (arXiv 2010.01412); Kwon et al., ICML 2021 (arXiv 2102.11600).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.optim.caches import drop_weight_copies
from gsnr_toolkit.optim.displacement import Displacement
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.parameters import (
    Perturb,
    check_group_radii,
    choose_perturbed,
    make_base,
    parameter_groups,
)
from gsnr_toolkit.optim.radii import Radii, WithRadii
from gsnr_toolkit.optim.rho import RadiusController, RhoSchedule, check_radius
from gsnr_toolkit.optim.scaling import (
    AskedByScaler,
    Unscaler,
    finite_everywhere,
    gradients_finite,
    insist_direct,
    scaler_errors,
)
from gsnr_toolkit.optim.state import is_priming
from gsnr_toolkit.optim.watch import STANDING


class SAM(WithRadii):
    r"""Sharpness-aware minimization: the base optimizer's step, with the gradient at the ascended weights.

    .. math:: g_{SAM} = \nabla L_B\left(\theta + \rho \frac{T^2 g_B}{|T g_B|}\right), \quad g_B = \nabla L_B(\theta),

    with ``T = 1`` (SAM) or ``T = |theta| + adaptive_eta`` (ASAM). The norm is taken over all perturbed parameters of
    all groups together. Parameter groups and optimizer state are shared with ``base_optimizer``, so learning-rate
    schedulers work on either of the two.

    Args:
        params: A module (its trainable parameters), parameters, ``(name, parameter)`` pairs, or groups. A group may
            set its own ``rho``; a group with rho 0 is not perturbed and does not count in the norm.
        base_optimizer: An optimizer class, or a function that builds an optimizer from parameter groups.
        rho: Radius, in units of the parameters; ``"auto"`` for :class:`~gsnr_toolkit.optim.margin.MarginRadius`, which
            needs no number; or a controller, such as :class:`gsnr_toolkit.training.auto_rho.AutoRho`.
        adaptive: Take ASAM's step. It scales biases and norms too, so that rescaling layers does not change it.
        adaptive_eta: ASAM's offset, added to each ``|theta|``; 0 is exactly scale-invariant but never moves a zero.
        perturb: ``"all"``, ``"norms"`` (needs the model) or a function ``(name, parameter) -> bool``. Radii are
            comparable only between equal choices.
        plateau_loss: With ``rho="auto"``, the loss of the best constant prediction
            (:func:`gsnr_toolkit.plateau_loss`). When None it is found from the losses that the closure calls.
        rho_max: With ``rho="auto"``, the largest radius; none when None. A group's own ``rho`` is its largest.
        rho_schedule: Function from the step to a factor of every rho (:mod:`gsnr_toolkit.optim.rho`). If all radii are
            0, the step is the base optimizer's and costs one backward.
        model: The model, if ``params`` is not the module itself. With it, only the first forward of a step moves the
            buffers of modules in train mode (running statistics, spectral norms, codebooks, counters).
        **base_options: Options of ``base_optimizer``.

    Attributes:
        base_optimizer: The optimizer that takes the step.
        steps: Steps so far, including skipped ones; the position of the schedule.
        skipped: Steps skipped because a gradient was not finite; they left the weights unchanged.
        unperturbed: Ascents omitted because the gradient was exactly zero.
        grad_norm: Norm of the last gradient before the ascent; NaN after a plain step unless ``watch_norm`` is set.

    Raises:
        ProbeError: If an option is out of range, or the base optimizer needs a closure (LBFGS).

    >>> _ = torch.manual_seed(0)
    >>> model, inputs = nn.Linear(3, 1), torch.randn(8, 3)
    >>> optimizer = SAM(model, torch.optim.SGD, rho=0.05, lr=0.1)
    >>> def closure():
    ...     loss = model(inputs).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> losses = [optimizer.step(closure).item() for _ in range(3)]
    >>> losses[0] > losses[1] > losses[2]
    True
    """

    _step_supports_amp_scaling = AskedByScaler()

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        *,
        rho: float | str | RadiusController | MarginRadius = 0.05,
        adaptive: bool = False,
        adaptive_eta: float = 0.01,
        perturb: Perturb = "all",
        plateau_loss: float | None = None,
        rho_max: float | None = None,
        rho_schedule: RhoSchedule | None = None,
        model: nn.Module | None = None,
        **base_options: Any,
    ) -> None:
        groups = parameter_groups(params)
        self._radii = Radii(rho, rho_schedule, plateau_loss=plateau_loss, rho_max=rho_max)
        self.adaptive = adaptive
        self.adaptive_eta = check_radius(adaptive_eta, "adaptive_eta")
        self.steps = self.skipped = self.unperturbed = 0
        self._perturb, self._model = perturb, params if isinstance(params, nn.Module) else model
        self._told: set[str] = set()
        self._unscaler = Unscaler()
        self._displaced = Displacement()
        self._pending = self._spoiled = self._in_step = False
        check_group_radii(groups, self._radii.controller)
        super().__init__(groups, {"rho": self._radii.initial})
        self.base_optimizer = make_base(base_optimizer, self.param_groups, base_options)
        self._share_state()
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        self._choose()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to this and to the base optimizer.

        Args:
            param_group: Parameters and options, such as ``rho``.
        """
        if "base_optimizer" not in self.__dict__:  # called by Optimizer.__init__
            super().add_param_group(param_group)
            return
        check_group_radii([param_group], self._radii.controller)
        param_group.setdefault("rho", self.defaults["rho"])
        self.base_optimizer.add_param_group(param_group)
        self._choose()

    def _choose(self) -> None:
        """Select the parameters to perturb, from all groups."""
        self._perturbed = choose_perturbed(self.param_groups, self._perturb, self._model)
        self._radii.attach(self._perturbed, adaptive=self.adaptive)
        if any(param.element_size() < 4 for param in self._perturbed):
            self._tell(
                "half",
                "expected perturbed parameters in float32, got half precision, which rounds away much of the ascent; "
                "keep parameters in float32 and use torch.autocast",
            )

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        local_ascent: DistributedDataParallel | None = None,
    ) -> Any:
        """Take a whole step.

        Args:
            closure: Runs forward and backward (``scaler.scale(loss).backward()`` with a scaler) over the whole batch,
                possibly in micro-batches, and returns the loss. It is called twice, or once if all radii are 0;
                gradients are cleared before each call.
            scaler: The GradScaler; call its ``update()`` afterwards.
            local_ascent: A DDP model whose processes each ascend along the gradient of their own shard. When None,
                DDP averages the ascent gradient too.

        Returns:
            The result of the first call of the closure, at the unperturbed weights.

        Gradients that stand when the step begins are dropped, with a warning unless the last step left them.

        Raises:
            ProbeError: If there is no closure, an earlier step is unfinished, or a GradScaler is used in another way.
        """
        insist_direct(self, closure)
        if closure is None:
            return self._step_without_closure()
        self._insist_new()
        if self._displaced.watch.standing(self._params()):
            self._tell("standing", STANDING)
        local = local_ascent if any(self._open()) else None
        try:
            self._in_step = True
            self.zero_grad()
            unsynced = nullcontext() if local is None else local.no_sync()
            with scaler_errors(), unsynced, torch.enable_grad(), self._radii.watching():
                loss = closure()
            if self._ascend(loss, zero_grad=True, scaler=scaler, local_ascent=local):
                with scaler_errors(), torch.enable_grad():
                    closure()
            self._finish(scaler)
        except BaseException:
            self.restore()
            raise
        finally:
            self._in_step = False
        return loss

    def _step_without_closure(self) -> None:
        if is_priming(self.param_groups):
            self.base_optimizer.step()
            return
        raise ProbeError(
            "expected a closure (SAM runs the model twice), got none; call step(closure), or first_step() and "
            "second_step(); with a GradScaler, step(closure, scaler=scaler) instead of scaler.step(optimizer)"
        )

    def first_step(
        self,
        *,
        loss: Any = None,
        zero_grad: bool = True,
        scaler: torch.amp.GradScaler | None = None,
        local_ascent: DistributedDataParallel | None = None,
    ) -> bool:
        """Ascend along the current gradients; call :meth:`second_step` next in any case.

        Args:
            loss: The mean loss of the batch, unscaled; needed with ``rho="auto"``.
            zero_grad: Clear the gradients. If no second backward is needed they are kept, and one would replace them.
            scaler: The GradScaler that scaled the gradients.
            local_ascent: The DDP model, if the gradients come from a backward in its ``no_sync()``.

        Returns:
            Whether a second backward is needed. It is not if all radii are 0, the gradient is exactly zero, or the
            gradient is not finite and the step will be skipped. A needless second backward does no harm.

        Raises:
            ProbeError: If an earlier step is unfinished.
        """
        self._insist_new()
        self._open()
        return self._ascend(loss, zero_grad=zero_grad, scaler=scaler, local_ascent=local_ascent)

    def second_step(self, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """Restore the weights bit for bit, then take the base optimizer's step unless a gradient is not finite.

        Args:
            scaler: The GradScaler. To clip gradients, call ``scaler.unscale_(optimizer)`` and clip first.

        Raises:
            ProbeError: If there was no ascent since the last step, or if only one half of the step got the scaler; the
                step is then abandoned.
        """
        if not self._pending:
            raise ProbeError(
                "expected first_step() or perturbed() before second_step(), got neither since the last step; call one "
                "of them, or step(closure)"
            )
        try:
            self._hooked_finish(scaler)
        except BaseException:
            self.restore()
            raise

    def _finish(self, scaler: torch.amp.GradScaler | None) -> None:
        """Restore the weights and take the base optimizer's step."""
        self._displaced.restore()
        self._displaced.keep_gradients()
        self._unscaler.insist_same(scaler)
        if scaler is not None and not self._spoiled:
            self._unscaler.descent(scaler, self)
        if self._spoiled or not gradients_finite(self.param_groups):
            self._skip(scaler)
        else:
            fault = self._displaced.watch.fault()
            if fault is not None:
                self._tell("fault", fault)
            self.base_optimizer.step()
            drop_weight_copies()
        self._opt_called = True  # learning-rate schedulers warn otherwise: they watch step() only
        self.steps += 1
        self._close()

    _hooked_finish = Optimizer.profile_hook_step(_finish)
    """The same with the hooks of a step, which torch runs around :meth:`step` only."""

    def _skip(self, scaler: torch.amp.GradScaler | None) -> None:
        self.skipped += 1
        if scaler is None or not scaler.is_enabled():
            self._tell(
                "skipped",
                f"the gradient of step {self.steps} is not finite: the step is skipped (counted in "
                "optimizer.skipped); lower the learning rate or rho, and check the batch",
            )

    @contextmanager
    def perturbed(
        self,
        *,
        loss: Any = None,
        zero_grad: bool = True,
        scaler: torch.amp.GradScaler | None = None,
        local_ascent: DistributedDataParallel | None = None,
    ) -> Iterator[bool]:
        """Ascend in the block, and restore the weights bit for bit on leaving it, even if it raises.

        The arguments are those of :meth:`first_step`. The block may be entered several times (m-sharpness) before
        :meth:`second_step` takes the step.

        Yields:
            Whether a second backward is needed, as in :meth:`first_step`.
        """
        self._open()
        try:
            yield self._ascend(loss, zero_grad=zero_grad, scaler=scaler, local_ascent=local_ascent)
        except BaseException:
            self.restore()
            raise
        self._displaced.restore()
        self._displaced.keep_gradients()

    def restore(self) -> None:
        """Abandon an unfinished step: restore the weights and take no step."""
        if self._pending:
            self._unscaler.abandon()
        self._displaced.restore()
        self._displaced.keep_gradients()
        self._close()

    def _open(self) -> tuple[float, ...]:
        """Begin a step unless one has begun; return the largest radii that it may have."""
        if self._pending:
            return self._radii.largest(self.param_groups, self.steps)
        radii = self.next_radii()
        self._unscaler.begin()
        self._pending = True
        return radii

    def _close(self) -> None:
        self._pending = self._spoiled = False
        self._displaced.watch.leave(self._params())

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def _insist_new(self) -> None:
        if self._pending:
            raise ProbeError(
                "expected second_step() after first_step() or perturbed(), got a new step instead; call second_step() "
                "even if first_step() returned False, or restore() to abandon a step (after an exception, say)"
            )

    def _ascend(
        self,
        loss: Any,
        *,
        zero_grad: bool,
        scaler: torch.amp.GradScaler | None,
        local_ascent: DistributedDataParallel | None,
    ) -> bool:
        """Ascend; return whether a second backward is needed."""
        if self._displaced:
            raise ProbeError("expected unperturbed weights, got perturbed() inside perturbed(); leave that block first")
        self._unscaler.note(scaler)
        radii, moved = self._radii.largest(self.param_groups, self.steps), False
        self._note_norm(radii, scaler)
        if any(radii) and not self._spoiled:
            self._spoiled = not finite_everywhere(self.param_groups, local_ascent)
            radii = radii if self._spoiled or self._radii.margin is None else self._observed(loss, radii, scaler)
            if scaler is not None and any(radii):
                self._unscaler.ascent(scaler, self.param_groups)
            moved = not self._spoiled and any(radii) and self._move(radii)
        # Even without an ascent, this gradient cannot serve for the step if it comes from this process alone, or is
        # already unscaled.
        unfit = local_ascent is not None or (scaler is not None and any(radii))
        again = moved or (unfit and not self._spoiled)
        if zero_grad and (again or self._spoiled):
            self.zero_grad()
        elif zero_grad:
            self._displaced.let_gradients_be_replaced(self.param_groups)
        return again

    def _observed(self, loss: Any, radii: tuple[float, ...], scaler: torch.amp.GradScaler | None) -> tuple[float, ...]:
        """Let ``rho="auto"`` decide the radii, from the loss and the gradient of the step."""
        eta = self.adaptive_eta if self.adaptive else None
        norm = self._displaced.length(self.param_groups, radii, self._perturbed, eta=eta)
        self.grad_norm = norm / (1.0 if scaler is None else scaler.get_scale())
        return self._radii.observe(self.param_groups, self.steps, loss, self.grad_norm)

    def _move(self, radii: tuple[float, ...]) -> bool:
        """Move the weights; return False if the ascent gradient has no direction."""
        eta = self.adaptive_eta if self.adaptive else None
        self.grad_norm = self._displaced.ascend(self.param_groups, radii, self._perturbed, eta=eta, model=self._model)
        if self._displaced:
            return True
        self.unperturbed += 1
        self._tell(
            "zero",
            f"the ascent gradient of step {self.steps} has norm {self.grad_norm:g} and no direction: the weights are "
            "not perturbed (counted in optimizer.unperturbed); check that the loss depends on them",
        )
        return False
