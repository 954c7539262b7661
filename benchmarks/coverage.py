"""Share of the parameters of public architectures that the taps engine serves by rules, and its accuracy.

Claim: every parameter of every architecture is covered, by a rule or by another engine, and agrees with one backward
per sample. Command: ``python -m benchmarks.coverage`` (a minute on two cores); it writes ``docs/engine-coverage.md``.
The models are those of ``tests/support/zoo.py``: real classes with random weights, in tiny configurations.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.losses import resolve_loss

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "engine-coverage.md"

HEAD = """# Coverage of the taps engine

Written by `python -m benchmarks.coverage`. The lines down to `TransformerEncoder` are real classes of public libraries
with random weights in a tiny configuration (`tests/support/zoo.py`); the others were constructed to be difficult.
*rules* is the share of the parameters that a rule serves. The others come from `vmap` or one backward per sample, for
the reason given, so that all parameters are always covered. *difference* is the largest deviation from one backward per
sample in float64, over all samples and parameters, as a share of the largest entry of the model's gradient.

| architecture | parameters | rules | other engine | difference | why |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes:
        name: Its name in the zoo.
        parameters: Number of scalar parameters.
        on_rules: Number of them that rules serve.
        difference: Largest deviation from one backward per sample.
        why: Why the rest is served by another engine.
    """

    name: str
    parameters: int
    on_rules: int
    difference: float
    why: str

    def line(self) -> str:
        """Format the row in Markdown."""
        share = 100 * self.on_rules / self.parameters
        rest = "" if self.on_rules == self.parameters else f"{100 - share:.1f} %"
        return f"| {self.name} | {self.parameters:,} | {share:.4g} % | {rest} | {self.difference:.0e} | {self.why} |"


def rows() -> Iterator[Row]:
    """Measure every architecture.

    Yields:
        Rows in the zoo's order.
    """
    # imported here: the tests import this module for the form of its rows
    from tests.support.zoo import ZOO, to_dtype

    for name, case in ZOO.items():
        model, batch = to_dtype(case, torch.float64)
        task = GradientTask(model, trainable_params(model), resolve_loss(case.loss_fn))
        engine = TapsEngine()
        (chunk,) = engine(task, batch, chunk_size=5)
        expected = [one.grads for one in loop_gradients(task, batch)]
        gap = max(
            float((torch.cat([one[key] for one in expected]) - chunk.grads[key]).abs().max()) for key in task.params
        )
        largest = max(float(grad.abs().max()) for one in expected for grad in one.values())
        other = engine.other()
        served = task.num_params - sum(task.params[key].numel() for key in other)
        yield Row(name, task.num_params, served, gap / largest, "; ".join(dict.fromkeys(other.values())))


def main() -> None:
    """Measure every architecture and write the page."""
    warnings.simplefilter("ignore")
    lines = []
    for row in rows():
        lines.append(row.line())
        print(lines[-1], flush=True)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
