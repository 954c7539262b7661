"""The fixtures of `tests.support.drawn`, for tests of figures."""

from tests.support.drawn import by_gid, rendered  # noqa: F401
