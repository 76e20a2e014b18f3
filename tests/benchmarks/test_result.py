"""Results are written atomically, with what is needed to repeat them and without paths of a machine."""

import json

import pytest

from benchmarks.lib import result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("sys.argv", [str(result.ROOT / "benchmarks" / "speed" / "example.py"), "--quick"])
    return tmp_path / "results"


def save(figures):
    return result.save_result(
        "example", question="Is it?", config={"N": 4}, figures=figures, repeats=3, seed=0, units={"time": "s"}
    )


def test_a_result_says_what_was_run_and_on_what(folder):
    saved = json.loads(save({"time": 1.5}).read_text())
    assert saved["command"] == "python -m benchmarks.speed.example --quick"
    assert saved["figures"] == {"time": 1.5}
    assert saved["units"] == {"time": "s"}
    assert saved["repeats"] == 3
    assert {"date", "device", "versions", "seed", "data", "config", "question"} <= set(saved)
    assert "/" not in saved["device"]


def test_a_command_has_no_path_of_the_machine(folder, monkeypatch, root):
    inside = str(root / "runs" / "codes.safetensors")
    monkeypatch.setattr(
        "sys.argv", [str(root / "example.py"), "--codes", inside, "--out", "/home/me/gpu", "--rate", "2"]
    )
    command = json.loads(save({"time": 1.5}).read_text())["command"]
    assert command == "python -m example --codes runs/codes.safetensors --out gpu --rate 2"


def test_a_script_outside_of_the_repository_is_recorded_by_its_name():
    assert result.command_line(["/somewhere/else/example.py", "--quick"]) == "python example.py --quick"


def test_every_command_in_the_book_runs_a_module_that_exists_without_machine_paths(root):
    for path in (root / "book" / "results").glob("*.json"):
        python, flag, module, *arguments = json.loads(path.read_text())["command"].split()
        assert (python, flag) == ("python", "-m"), path.name
        assert (root / f"{module.replace('.', '/')}.py").is_file(), path.name
        assert not any(argument.startswith("/") for argument in arguments), path.name


def test_nothing_partial_is_left_behind(folder):
    save({"time": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save({"time": float("nan")})
    assert [path.name for path in folder.iterdir()] == ["example.json"]
    assert json.loads((folder / "example.json").read_text())["figures"] == {"time": 1.0}


def test_what_was_computed_is_read_and_not_computed_again(tmp_path):
    made = iter([{"time": 1.5}, {"time": 2.5}])
    path = tmp_path / "runs" / "a.json"
    assert result.load_or_compute(path, lambda: next(made)) == {"time": 1.5}
    assert result.load_or_compute(path, lambda: next(made)) == {"time": 1.5}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_failed_computation_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        result.load_or_compute(tmp_path / "a.json", lambda: 1 / 0)
    assert not list(tmp_path.iterdir())


def run_three_parts(errors, done):
    """The first and the last of three parts fail."""
    with errors:
        for name in "abc":
            with errors.collect(name):
                done.append(1 / (name == "b"))


def test_a_part_that_fails_does_not_stop_the_others_and_is_raised_at_the_end(capsys):
    errors, done = result.ErrorCollector(), []
    with pytest.raises(ExceptionGroup, match="failed: a, c") as raised:
        run_three_parts(errors, done)
    assert done == [1]
    assert list(errors.failed) == ["a", "c"]
    assert len(raised.value.exceptions) == 2
    assert capsys.readouterr().err.count("ZeroDivisionError") == 2


def test_parts_that_all_succeed_raise_nothing():
    with result.ErrorCollector() as errors, errors.collect("a"):
        pass
    assert not errors.failed


def interrupt(errors):
    """Interrupt after a part that failed."""
    with errors:
        with errors.collect("a"):
            raise RuntimeError
        with errors.collect("b"):
            raise KeyboardInterrupt


def test_an_interruption_is_not_collected(capsys):
    errors = result.ErrorCollector()
    with pytest.raises(KeyboardInterrupt):
        interrupt(errors)
    assert list(errors.failed) == ["a"]


def test_a_list_of_numbers_takes_one_line_and_reads_as_it_was():
    figures = {"bits": [1, -2.5, 1e-7], "runs": [{"bits": [3]}], "words": ["[\n1,\n2\n]", "b"], "none": []}
    indented = json.dumps(figures, indent=1)
    text = result.numbers_on_one_line(indented)
    assert json.loads(text) == figures
    assert '"bits": [1, -2.5, 1e-07],' in text
    assert len(text.splitlines()) == len(indented.splitlines()) - 6
