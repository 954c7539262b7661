import json

from benchmarks.faults.__main__ import main
from benchmarks.faults.outcome import Outcome, differences


def test_a_damaged_report_is_never_taken_for_whole(tmp_path, capsys):
    """One case of the stress run, whole: a probe in a process of its own, then damage, a table and a file."""
    output = tmp_path / "faults.json"
    assert main(["--quick", "--only", "damaged report", "--output", str(output)]) == 0
    (found,) = json.loads(output.read_text())["outcomes"]
    assert (found["lost"], found["badly_said"]) == ([], [])
    assert found["trials"] == 60
    assert found["messages"]
    assert "damaged report" in capsys.readouterr().out


def test_what_is_lost_and_badly_said_is_seen(tmp_path):
    for folder, text, seconds in (("one", "a,seconds\n1,2\n", 1), ("other", "a,seconds\n1,3\n", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text(text)
        (tmp_path / folder / "a.json").write_text(json.dumps({"auc": 0.5, "seconds": seconds}))
    one, other = tmp_path / "one", tmp_path / "other"
    assert differences(one, other) == []  # times may differ
    (one / "a.csv").write_text("a,seconds\n2,2\n")
    (one / ".a.partial").touch()
    (other / "b.csv").touch()
    assert differences(one, other) == [".a.partial is left over", "b.csv is lost", "a.csv differs"]
    outcome = Outcome("case", "work")
    outcome.hear("error: expected a folder, got the file x; choose another", "1")
    outcome.hear("warning: first\nerror: expected a folder, but it is a file; choose another", "2")
    assert not outcome.badly_said
    outcome.hear("Traceback (most recent call last): ...\nerror: expected a, got b; c", "3")
    outcome.hear("OSError: no space", "4")
    assert [text[0] for text in outcome.badly_said] == ["3", "4"]
