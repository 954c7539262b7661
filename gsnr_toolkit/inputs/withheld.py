"""What stands in place of a field with one entry per sample while one run serves many samples."""

from __future__ import annotations

from typing import Any, NoReturn

from gsnr_toolkit.errors import EngineError


class WithheldField:
    """Raise an error whenever a model or loss reads the field; a field that is only passed on does no harm.

    Args:
        field: The field, whose type it claims to have.

    >>> WithheldField(["a", "b"])[0]
    Traceback (most recent call last):
    gsnr_toolkit.errors.EngineError: expected a model and a loss that read tensors only, but ...
    """

    def __init__(self, field: Any) -> None:
        object.__setattr__(self, "_kind", type(field))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        kind: type = object.__getattribute__(self, "_kind")
        return kind

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise EngineError(
            "expected a model and a loss that read tensors only, but the vmap engine cannot vectorise this model "
            "(it reads a field of the batch with one entry per sample that is no tensor, such as a list of texts or a "
            "numpy array); pass engine='loop', or make the field a tensor"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__torch_function__"):
            raise AttributeError(name)
        self._refuse()

    __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = __array__ = __str__ = __format__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = _refuse
    __truediv__ = __rtruediv__ = __neg__ = __int__ = __float__ = __index__ = __call__ = __reversed__ = _refuse
    __pow__ = __rpow__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __matmul__ = __rmatmul__ = _refuse

    def __eq__(self, other: object) -> bool:
        self._refuse()

    def __ne__(self, other: object) -> bool:
        self._refuse()

    def __hash__(self) -> int:
        self._refuse()
