"""Every error message says what was expected, what came and what to do."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gsnr_toolkit", "corit", "analyses")
FORM = re.compile(r"(?:.{1,80}?: )?expected .+?(?:, got|,? but) .+; .+", re.DOTALL)
# __getattr__ of a package names what there is, as Python itself does
OTHER_FORMS = {"AttributeError", "NotImplementedError", "StopIteration", "KeyboardInterrupt"}


def _rendered(node):
    """The text of a message, with X in place of values; None where it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _rendered(node.left), _rendered(node.right)
        return None if left is None and right is None else f"{left or 'X'}{right or 'X'}"
    return None


def _raised(path):
    """Line and text of every error that a file makes from a text of its own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if not name.endswith("Error") or name in OTHER_FORMS or not node.args:
            continue
        text = _rendered(node.args[0])
        if text is not None and not re.fullmatch(r"(.{1,80}: )?X+", text):  # a place before another error's message
            yield node.lineno, text


FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_messages_say_expected_got_and_what_to_do(path):
    odd = [f"{path.name}:{line} {text}" for line, text in _raised(path) if not FORM.fullmatch(text)]
    assert not odd, "\n".join(odd)


def test_the_form_is_checked():
    assert FORM.fullmatch("expected rho to be positive, got X; pass a radius such as 0.05")
    assert not FORM.fullmatch("X is not positive")
    assert not FORM.fullmatch("expected rho to be positive, got X")


def test_messages_are_found():
    assert sum(1 for path in FILES for _ in _raised(path)) > 200
