"""The measured methods for per-sample gradients: name, result, and preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.comparison import peers
from benchmarks.comparison.settings import Setting
from gsnr_toolkit.support.lookup import Registry, TargetError, is_target, load_target

if TYPE_CHECKING:
    from gsnr_toolkit.moments.by_group import GroupMoments
    from gsnr_toolkit.moments.by_parameter import Moments
    from gsnr_toolkit.types import Batch, Params

    Delivered = Moments | GroupMoments | Params

MOMENTS = "mean and centred second moment per parameter"
UNCENTRED = "mean and E[g^2] - E[g]^2 per parameter"
SPREADS = "mean per parameter, centred second moment per tensor"
NORMS = "squared norm per sample and parameter tensor"


@dataclass(frozen=True)
class Method:
    """A method for per-sample gradients, or for statistics of them.

    Attributes:
        family: Plain PyTorch, this toolkit, or another library.
        gives: What the prepared function returns for a batch: ``"gradients"``, an iterator of chunks, name to
            ``(c, *shape)``, whose moments the benchmark computes; ``"moments"``; ``"spreads"``, the moments of the
            group-level mode; ``"norms"``, name to squared norms ``(N,)``; ``"mean"``, name to the gradient of the mean
            loss.
        product: The timed result, in words.
        prepare: Turns ``(setting, chunk_size)`` into that function; may change the setting's model, which no other
            method uses.
    """

    family: Literal["plain", "ours", "peer"]
    gives: Literal["gradients", "moments", "spreads", "norms", "mean"]
    product: str
    prepare: Callable[[Setting, int], Callable[[Batch], Any]]


def _prepare_ours(engine: str, setting: Setting, chunk_size: int) -> Callable[[Batch], Moments]:
    """Prepare one of the toolkit's engines; ``taps`` forms no gradients and takes the whole batch at once."""
    from gsnr_toolkit.gradients.select import make_engine
    from gsnr_toolkit.gradients.taps.engine import TapsEngine
    from gsnr_toolkit.inputs.batches import batch_length
    from gsnr_toolkit.moments.by_parameter import Moments

    worker = TapsEngine(check=False) if engine == "taps" else make_engine(engine)

    def moments_of(batch: Batch) -> Moments:
        moments = Moments()
        size = batch_length(batch) if engine == "taps" else chunk_size
        worker.accumulate(setting.task, batch, moments, chunk_size=size)
        return moments

    return moments_of


def _prepare_groups(setting: Setting, chunk_size: int) -> Callable[[Batch], GroupMoments]:
    """Prepare the group-level mode: the mean gradient, and a sum of centred squares per parameter."""
    del chunk_size
    from gsnr_toolkit.gradients.taps.engine import TapsEngine
    from gsnr_toolkit.inputs.batches import batch_length
    from gsnr_toolkit.moments.by_group import GroupMoments

    engine = TapsEngine(check=False)

    def spreads_of(batch: Batch) -> dict[str, Any]:
        moments = GroupMoments()
        engine.accumulate(setting.task, batch, moments, chunk_size=batch_length(batch))
        return moments

    return spreads_of


def _prepare_plain(setting: Setting, chunk_size: int) -> Callable[[Batch], Params]:
    del chunk_size
    params = setting.named_parameters()

    def mean_gradient(batch: Batch) -> Params:
        setting.model.zero_grad(set_to_none=True)
        setting.task.loss_fn(setting.model, batch).mean().backward()
        return {name: param.grad for name, param in params.items() if param.grad is not None}

    return mean_gradient


PLAIN = Method("plain", "mean", "gradient of the mean loss", _prepare_plain)

METHODS: Registry[Method] = Registry(
    "method",
    {
        "plain": PLAIN,
        "taps": Method("ours", "moments", MOMENTS, partial(_prepare_ours, "taps")),
        "taps-groups": Method("ours", "spreads", SPREADS, _prepare_groups),
        "loop": Method("ours", "moments", MOMENTS, partial(_prepare_ours, "loop")),
        "vmap": Method("ours", "moments", MOMENTS, partial(_prepare_ours, "vmap")),
        "opacus-hooks": Method("peer", "gradients", MOMENTS, peers.opacus_hooks),
        "opacus-ghost": Method("peer", "norms", NORMS, peers.opacus_ghost),
        "backpack-gradients": Method("peer", "gradients", MOMENTS, peers.backpack_gradients),
        "backpack-variance": Method("peer", "moments", UNCENTRED, peers.backpack_variance),
        "backpack-norms": Method("peer", "norms", NORMS, peers.backpack_norms),
        "torchjd-rows": Method("peer", "gradients", MOMENTS, peers.torchjd_rows),
        "torchjd-gram": Method("peer", "norms", "Gram matrix of the samples, whole model", peers.torchjd_gram),
        "trak": Method("peer", "gradients", MOMENTS, peers.trak_gradients),
    },
    hint="Or module:name of a Method of your own.",
)


def find_method(name: str) -> Method:
    """Look up a method.

    Args:
        name: One of :data:`METHODS`, or ``"module:name"`` of any other :class:`Method`.

    Returns:
        The method.

    Raises:
        UnknownNameError: If the name is unknown.
        TargetError: If the target is not a method.
    """
    if not is_target(name):
        return METHODS[name]
    found = load_target(name)
    if not isinstance(found, Method):
        raise TargetError(
            f"expected {name} to be a benchmarks.comparison.methods.Method, got {type(found).__name__}; name one"
        )
    return found


def deliver(method: Method, worker: Callable[[Batch], Any], batch: Batch) -> Delivered:
    """Run a prepared method to its result; this is what is timed.

    Args:
        method: The method.
        worker: The result of its ``prepare``.
        batch: A batch.

    Returns:
        Moments; for norms and the mean gradient, values by name.
    """
    if method.gives != "gradients":
        return worker(batch)
    from gsnr_toolkit.moments.by_parameter import Moments

    moments = Moments()
    chunks: Iterator[Params] = worker(batch)
    for grads in chunks:
        moments.update(grads)
        del grads  # otherwise this chunk stays in memory while the next one is computed
    return moments
