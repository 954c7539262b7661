"""The embedded families by name: the forgery of each, and the world of its photographs."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from gsnr_toolkit.data.demo.cross import fine_swap, mixture
from gsnr_toolkit.data.demo.forgeries import FORGERIES, Forgery
from gsnr_toolkit.data.demo.synthesis import adversarial, diffusion
from gsnr_toolkit.data.demo.worlds import HOME, STAGE, TELEPHONE, World


@dataclass(frozen=True)
class Family:
    """One embedded forgery data set.

    Attributes:
        forge: Maps exposed photographs and a strength to forged images and masks.
        world: The origin of its photographs.
    """

    forge: Forgery
    world: World = HOME


FAMILIES: MappingProxyType[str, Family] = MappingProxyType(
    {
        **{name: Family(forge) for name, forge in FORGERIES.items()},
        "cdf": Family(fine_swap, STAGE),
        "dfdc": Family(mixture, TELEPHONE),
        "gan": Family(adversarial),
        "diff": Family(diffusion),
    }
)
"""Four families to train on, then four to test on: a finer face swap, a mixture, and two of synthetic images."""
