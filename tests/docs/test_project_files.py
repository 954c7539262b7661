"""The files around the code parse and agree with each other and with CI."""

import datetime
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
NEXT = "0.2.0"
"""Version that the changelog and the citation may name before pyproject.toml does."""


def _text(name):
    return (ROOT / name).read_text(encoding="utf8")


def _numbers(version):
    return tuple(int(part) for part in version.split("."))


def _project():
    return tomllib.loads(_text("pyproject.toml"))["project"]


def _versions():
    """Find the versions and dates of the changelog, newest first."""
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", _text("CHANGELOG.md"), re.MULTILINE)


def test_every_version_of_the_changelog_has_a_date():
    headings = re.findall(r"^## .*$", _text("CHANGELOG.md"), re.MULTILINE)
    released = [heading for heading in headings if heading != "## [Unreleased]"]
    assert len(_versions()) == len(released) >= 2
    dates = [datetime.date.fromisoformat(date) for _, date in _versions()]
    assert dates == sorted(dates, reverse=True)
    numbers = [_numbers(version) for version, _ in _versions()]
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_sections_of_the_changelog_are_those_of_keep_a_changelog():
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Migration"}
    assert set(re.findall(r"^### (.*)$", _text("CHANGELOG.md"), re.MULTILINE)) <= known


def test_the_newest_version_is_the_projects():
    import gsnr_toolkit

    version, newest = _project()["version"], _versions()[0][0]
    assert gsnr_toolkit.__version__ == version
    assert newest == version or (newest == NEXT and _numbers(version) < _numbers(NEXT))


def test_the_citation_is_of_this_project():
    citation = yaml.safe_load(_text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what the format requires"
    assert (citation["title"], citation["type"]) == (_project()["name"], "software")
    assert citation["license"] == _project()["license"]
    assert (citation["version"], citation["date-released"]) == _versions()[0]
    (paper,) = citation["references"]
    assert "2603.24057" in paper["url"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Shi", "Xing", "Yin", "Zhang"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names)
    for field in fields:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
    assert "version" in names


def test_a_bug_report_asks_for_what_is_needed_to_repeat_it():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml").read_text(encoding="utf8"))
    required = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert {"version", "command", "expected", "got"} <= required
    assert "gsnr-probe --version" in str(form)


def test_version_is_an_option():
    from typer.main import get_command

    from gsnr_toolkit.commands.probe import app

    assert "--version" in {name for option in get_command(app).params for name in option.opts}


def test_pre_commit_runs_the_checks_of_ci():
    config = yaml.safe_load(_text(".pre-commit-config.yaml"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local", "hooks use the tools of the environment; pyproject.toml pins their versions"
    checks = re.findall(r"^\.venv/bin/((?:ruff|mypy).*)$", _text(".ci/run"), re.MULTILINE)
    assert len(checks) == 3
    assert [hook["entry"] for hook in repository["hooks"]] == checks
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    pinned = _project()["optional-dependencies"]["dev"]
    for check in checks:
        tool = check.split()[0]
        assert any(item.startswith(f"{tool}==") for item in pinned), tool


def test_the_pull_request_template_and_contributing_name_ci():
    assert "`.ci/run`" in _text(".github/pull_request_template.md")
    contributing = _text("CONTRIBUTING.md")
    assert "`.ci/run`" in contributing
    for check in ("ruff check .", "ruff format --check .", "mypy"):
        assert check in contributing
    for link in re.findall(r"\]\(([^)#:\s]+)\)", contributing):
        assert (ROOT / link).exists(), link
