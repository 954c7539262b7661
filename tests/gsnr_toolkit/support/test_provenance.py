import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

from gsnr_toolkit.support.provenance import command_line, environment, processor


def test_a_module_is_named_as_it_is_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/project/analyses/figure1.py", "--smoke"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="analyses.figures.figure1"))
    assert command_line() == ["python", "-m", "analyses.figures.figure1", "--smoke"]
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="gsnr_toolkit.__main__"))
    assert command_line()[2] == "gsnr_toolkit"


def test_a_script_is_named_without_its_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/gsnr-probe", "--data", "demo-nt"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == ["gsnr-probe", "--data", "demo-nt"]


def test_the_processor_is_named_also_where_the_system_does_not_list_it(monkeypatch):
    here = environment()["cpu"]
    assert here == processor()
    assert here.endswith(f", {os.cpu_count()} cores")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor() == f"arm, {os.cpu_count()} cores"
