import sys
from types import SimpleNamespace

from gsnr_toolkit.provenance import command_line


def test_a_module_is_named_as_it_is_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/project/analyses/figure1.py", "--smoke"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="analyses.figure1"))
    assert command_line() == ["python", "-m", "analyses.figure1", "--smoke"]
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="gsnr_toolkit.__main__"))
    assert command_line()[2] == "gsnr_toolkit"


def test_a_script_is_named_without_its_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/gsnr-probe", "--data", "demo-nt"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == ["gsnr-probe", "--data", "demo-nt"]
