"""The benchmark of a sample's cost, by its own command on a few samples."""

import json

from benchmarks import scaling


def test_every_work_has_a_number_and_other_models_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "SCALES", {"mlp": scaling.Scale(4, (2, 4), (4, 8), 8)})
    monkeypatch.setattr(scaling, "keep_freed_memory", lambda: None)  # a setting of the whole process
    output = tmp_path / "scaling.json"
    output.write_text(json.dumps({"other": {"plain": [1, 1, 1]}}))
    scaling.main(["--model", "mlp", "--repeats", "2", "--output", str(output)])
    found = json.loads(output.read_text())
    assert found["other"] == {"plain": [1, 1, 1]}
    assert found["mlp"]["provenance"]["cpu"]
    costs = found["mlp"]["costs"]
    names = list(costs)
    assert names[0] == "plain, batch 4"
    assert {"moments, batch 2", "moments, 8 samples", "estimate_gsnr, 8 samples, groups by block"} <= set(names)
    assert "estimate_gsnr, 8 samples, a loader of batches of 2" in names
    assert all(0 < low <= middle <= high for middle, low, high in costs.values())
    assert capsys.readouterr().out.count("\n") == 2 + len(names)
