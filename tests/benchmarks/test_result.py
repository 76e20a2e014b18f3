"""Results are written whole, carry what is needed to repeat them, and name no machine."""

import json

import pytest

from benchmarks import result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(result, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["/somewhere/else/benchmarks/example.py", "--quick"])
    return tmp_path / "results"


def save(figures):
    return result.save_result(
        "example", question="Is it?", config={"N": 4}, figures=figures, repeats=3, seed=0, units={"time": "s"}
    )


def test_a_result_says_what_was_run_and_on_what(folder):
    saved = json.loads(save({"time": 1.5}).read_text())
    assert saved["command"] == "python benchmarks/example.py --quick"
    assert saved["figures"] == {"time": 1.5}
    assert saved["units"] == {"time": "s"}
    assert saved["repeats"] == 3
    assert {"date", "device", "versions", "seed", "data", "config", "question"} <= set(saved)
    assert "/" not in saved["device"]


def test_nothing_partial_is_left_behind(folder):
    save({"time": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save({"time": float("nan")})
    assert [path.name for path in folder.iterdir()] == ["example.json"]
    assert json.loads((folder / "example.json").read_text())["figures"] == {"time": 1.0}


def test_what_was_made_is_kept_and_not_made_again(tmp_path):
    made = iter([{"time": 1.5}, {"time": 2.5}])
    path = tmp_path / "runs" / "a.json"
    assert result.kept(path, lambda: next(made)) == {"time": 1.5}
    assert result.kept(path, lambda: next(made)) == {"time": 1.5}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        result.kept(tmp_path / "a.json", lambda: 1 / 0)
    assert not list(tmp_path.iterdir())
