"""The fixtures of `tests.support.drawn`, for tests of figures."""

from tests.support.drawn import all_gids, by_gid, rendered, synthetic_report  # noqa: F401
