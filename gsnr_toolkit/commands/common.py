"""What every command shares: options generated from dataclasses, warnings and usage errors as one line."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any

import typer

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.allocator import keep_freed_memory

__all__ = ["EXIT_ERROR", "EXIT_INTERRUPTED", "panel_option", "run_command", "settings_as_options"]

#: Exit code after a usage error, and after Ctrl-C.
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


def panel_option(panel: str, text: str, *names: str, **extra: Any) -> Any:
    """Return a typer option shown under a heading of ``--help``."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **extra)


def settings_as_options(
    *configs: Any,
    panels: Mapping[str, Collection[str]],
    short: Mapping[str, str],
    leave_out: Collection[str] = (),
    text: Collection[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command so that each dataclass field becomes one of its options.

    Help text, kind and default come from the field (:func:`gsnr_toolkit.support.settings.setting`). The dataclass
    checks the range, so that the command line and Python report the same errors. The decorated function receives the
    values as a dict, its first argument. Its keyword-only parameters stay options of their own.

    Args:
        *configs: Dataclasses, or instances whose values are the defaults.
        panels: Heading of ``--help`` to the fields shown first under it, in order; all other fields follow under the
            last heading.
        short: Field name to its one-letter flag.
        leave_out: Fields that are no options.
        text: Fields that the command reads from text itself.

    Returns:
        The decorator.
    """
    found = {item.name: (item, getattr(config, item.name)) for config in configs for item in fields(config)}
    heading = {name: panel for panel, names in panels.items() for name in names}
    last = list(panels)[-1]
    order = [*heading, *(name for name in found if name not in heading and name not in leave_out)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        made = [
            _parameter(*found[name], heading.get(name, last), short.get(name), as_text=name in text) for name in order
        ]
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            command({name: given.pop(name) for name in order}, **given)

        # typer reads a command's options from its signature
        wrapper.__signature__ = inspect.Signature([*made, *own])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {item.name: item.annotation for item in [*made, *own]}
        return wrapper

    return decorate


def _parameter(item: Field[Any], default: Any, panel: str, flag: str | None, *, as_text: bool) -> inspect.Parameter:
    """Return the typer parameter for a field; values that are no plain numbers or flags come as text."""
    plain = item.metadata["kind"] in (int, float, bool) and not item.metadata["words"] and not as_text
    kind = item.metadata["kind"] if plain else str
    names = [f"--{item.name.replace('_', '-')}", flag] if flag else []
    option = typer.Option(default, *names, help=item.metadata["help"], rich_help_panel=panel)
    annotation = kind | None if default is None else kind
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def run_command(app: Callable[[], object], packages: str = "gsnr_toolkit") -> None:
    """Run a command line; a usage error ends as one message and exit code 2, without a traceback.

    Args:
        app: The command line.
        packages: Regular expression of the modules whose warnings are shown every time.

    Raises:
        SystemExit: After a usage error.
    """
    keep_freed_memory()
    warnings.filterwarnings("default", module=packages)
    warnings.showwarning = _show_warning
    try:
        app()
    except ProbeError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_ERROR) from None
    except BrokenPipeError:
        # the reader of our output, such as head, has gone; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_ERROR) from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        sys.stderr.write(
            f"error: expected to read and write files, but{where} failed ({error.strerror or error}); free some space, "
            "check the permissions, or choose another place\n"
        )
        raise SystemExit(EXIT_ERROR) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
