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


def test_where_the_repository_lies_is_not_told(folder, monkeypatch, root):
    inside = str(root / "runs" / "codes.safetensors")
    monkeypatch.setattr("sys.argv", ["example.py", "--codes", inside, "--out", "/home/me/gpu", "--rate", "2"])
    command = json.loads(save({"time": 1.5}).read_text())["command"]
    assert command.endswith("example.py --codes runs/codes.safetensors --out gpu --rate 2")


def test_no_result_of_the_book_names_a_place_on_a_machine(root):
    for path in (root / "book" / "results").glob("*.json"):
        command = json.loads(path.read_text())["command"]
        assert not any(part.startswith("/") for part in command.split()), path.name


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


def three_parts(parts, done):
    """Of which the first and the last fail."""
    with parts:
        for name in "abc":
            with parts.of(name):
                done.append(1 / (name == "b"))


def test_a_part_that_fails_costs_only_itself_and_is_not_passed_over(capsys):
    parts, done = result.Parts(), []
    with pytest.raises(ExceptionGroup, match="failed: a, c") as raised:
        three_parts(parts, done)
    assert done == [1]
    assert list(parts.failed) == ["a", "c"]
    assert len(raised.value.exceptions) == 2
    assert capsys.readouterr().err.count("ZeroDivisionError") == 2


def test_parts_that_all_work_raise_nothing():
    with result.Parts() as parts, parts.of("a"):
        pass
    assert not parts.failed


def interrupted(parts):
    """After a part that failed."""
    with parts:
        with parts.of("a"):
            raise RuntimeError
        with parts.of("b"):
            raise KeyboardInterrupt


def test_an_interruption_is_no_failure_and_ends_all(capsys):
    parts = result.Parts()
    with pytest.raises(KeyboardInterrupt):
        interrupted(parts)
    assert list(parts.failed) == ["a"]


def test_a_list_of_numbers_takes_one_line_and_reads_as_it_was():
    figures = {"bits": [1, -2.5, 1e-7], "runs": [{"bits": [3]}], "words": ["[\n1,\n2\n]", "b"], "none": []}
    indented = json.dumps(figures, indent=1)
    text = result.numbers_on_one_line(indented)
    assert json.loads(text) == figures
    assert '"bits": [1, -2.5, 1e-07],' in text
    assert len(text.splitlines()) == len(indented.splitlines()) - 6
