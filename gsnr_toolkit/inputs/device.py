"""The device that a caller names."""

from __future__ import annotations

import torch

from gsnr_toolkit.errors import ProbeError


def find_device(name: str | int | torch.device) -> torch.device:
    """Resolve a device and check that this machine has it.

    Args:
        name: A device such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns:
        The device, with its index.

    Raises:
        ProbeError: If this machine has no such device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        # torch.device("cuda") alone succeeds on a machine without a GPU; only an allocation shows that it is usable.
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProbeError(
            f"expected a device of this machine, got {name!r} ({reason}); use device='cpu' (--device cpu)"
        ) from error
