"""Only what is whole, and was measured on a GPU, is taken over; everything else is refused by name."""

import json

import pytest

from benchmarks import result
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint
from tools.gpu_adopt import adopt


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """A folder as a GPU run leaves it."""
    folder = tmp_path / "brought"
    monkeypatch.setattr(result, "RESULTS", folder / "results")
    monkeypatch.setattr(result, "describe_device", lambda: "GPU, by name")
    monkeypatch.setattr("sys.argv", ["benchmarks/example.py"])
    for name in ("throughput_gpu", "generation_gpu"):
        save(name)
    save_checkpoint(folder / "training" / "piano-0.pt", {"step": 2})
    (folder / "status.json").write_text(json.dumps({"device": "GPU, by name", "parts": {}}))
    return folder


def save(name, figures=None):
    figures = {"time": 1.5} if figures is None else figures
    result.save_result(name, question="Is it?", config={}, figures=figures, repeats=1, seed=0)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "book").mkdir()
    return tmp_path / "book", tmp_path / "pretrained"


def test_results_and_checkpoints_are_taken(brought, places):
    book, pretrained = places
    taken, refused = adopt(brought, book, pretrained)
    assert taken == ["generation_gpu.json", "throughput_gpu.json", "piano-0.pt"]
    assert refused == {}
    for name in taken[:2]:
        assert (book / name).read_bytes() == (brought / "results" / name).read_bytes()
    assert load_checkpoint(pretrained / "piano-0.pt") == {"step": 2}


def test_a_checkpoint_that_is_replaced_is_kept_aside(brought, places):
    _, pretrained = places
    save_checkpoint(pretrained / "piano-0.pt", {"step": 1})
    adopt(brought, *places)
    assert load_checkpoint(pretrained / "piano-0.pt") == {"step": 2}
    assert load_checkpoint(pretrained / "before" / "piano-0.pt") == {"step": 1}


def changed(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_text(path.read_text()[:50]), "it is damaged"),
        (lambda path: changed(path, device="CPU, 2 cores"), "it was not measured on a GPU: CPU, 2 cores"),
        (lambda path: changed(path, name="another_gpu"), "it is not a result of its name: another_gpu"),
        (lambda path: path.write_text('{"device": "GPU"}'), "it is no result: command, data"),
        (lambda path: path.write_text("[1]"), "it is no result"),
        (lambda path: changed(path, figures={}), "it holds no figures"),
    ],
    ids=["damaged", "of a CPU", "of another name", "without entries", "a list", "empty"],
)
def test_what_is_no_result_of_a_gpu_is_refused_and_the_rest_taken(brought, places, damage, why):
    damage(brought / "results" / "throughput_gpu.json")
    taken, refused = adopt(brought, *places)
    assert taken == ["generation_gpu.json", "piano-0.pt"]
    assert list(refused) == ["throughput_gpu.json"]
    assert refused["throughput_gpu.json"].startswith(why)
    assert not (places[0] / "throughput_gpu.json").exists()


def test_a_miniature_is_refused(brought, places):
    save("training_quick")
    (brought / "status.json").write_text(json.dumps({"device": "CPU, in miniature", "parts": {}}))
    _, refused = adopt(brought, *places)
    assert refused == {
        "training_quick.json": "it is not a result of its name: training_quick",
        "piano-0.pt": "it was not trained on a GPU: CPU, in miniature",
    }


def test_a_damaged_checkpoint_is_refused_and_the_old_one_stays(brought, places):
    save_checkpoint(places[1] / "piano-0.pt", {"step": 1})
    (brought / "training" / "piano-0.pt").write_bytes(b"half")
    _, refused = adopt(brought, *places)
    assert refused["piano-0.pt"].startswith("it is damaged")
    assert load_checkpoint(places[1] / "piano-0.pt") == {"step": 1}


@pytest.mark.parametrize("content", [None, "half", "[]", '{"device": "GPU"}'])
def test_a_folder_of_no_run_is_refused(brought, places, content):
    (brought / "status.json").unlink()
    if content is not None:
        (brought / "status.json").write_text(content)
    with pytest.raises(ValueError, match=r"must hold the status\.json of a GPU run"):
        adopt(brought, *places)
    assert not list(places[0].iterdir())
