"""Only valid results that were measured on a GPU are adopted; all others are rejected by name."""

import json

import pytest

from benchmarks.lib import result
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint
from tools.gpu_adopt import adopt


@pytest.fixture
def gpu_run(tmp_path, monkeypatch):
    """The output folder of a GPU run."""
    folder = tmp_path / "gpu_run"
    monkeypatch.setenv("SASHIMI_RESULTS", str(folder / "results"))
    monkeypatch.setattr(result, "describe_device", lambda: "GPU, by name")
    monkeypatch.setattr("sys.argv", ["benchmarks/speed/example.py"])
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


def test_results_and_checkpoints_are_adopted(gpu_run, places):
    book, pretrained = places
    accepted, rejected = adopt(gpu_run, book, pretrained)
    assert accepted == ["generation_gpu.json", "throughput_gpu.json", "piano-0.pt"]
    assert rejected == {}
    for name in accepted[:2]:
        assert (book / name).read_bytes() == (gpu_run / "results" / name).read_bytes()
    assert load_checkpoint(pretrained / "piano-0.pt") == {"step": 2}


def test_a_checkpoint_that_is_replaced_is_backed_up(gpu_run, places):
    _, pretrained = places
    save_checkpoint(pretrained / "piano-0.pt", {"step": 1})
    adopt(gpu_run, *places)
    assert load_checkpoint(pretrained / "piano-0.pt") == {"step": 2}
    assert load_checkpoint(pretrained / "before" / "piano-0.pt") == {"step": 1}


def changed(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text(path.read_text()[:50]), "damaged"),
        (lambda path: changed(path, device="CPU, 2 cores"), "not measured on a GPU: CPU, 2 cores"),
        (
            lambda path: changed(path, name="another_gpu"),
            "its name must be that of its file, got another_gpu",
        ),
        (lambda path: path.write_text('{"device": "GPU"}'), "not a result: command, data"),
        (lambda path: path.write_text("[1]"), "not a result"),
        (lambda path: changed(path, figures={}), "it has no figures"),
    ],
    ids=["damaged", "of a CPU", "of another name", "without entries", "a list", "empty"],
)
def test_invalid_results_are_rejected_and_the_others_adopted(gpu_run, places, damage, reason):
    damage(gpu_run / "results" / "throughput_gpu.json")
    accepted, rejected = adopt(gpu_run, *places)
    assert accepted == ["generation_gpu.json", "piano-0.pt"]
    assert list(rejected) == ["throughput_gpu.json"]
    assert rejected["throughput_gpu.json"].startswith(reason)
    assert not (places[0] / "throughput_gpu.json").exists()


def test_a_small_version_is_rejected(gpu_run, places):
    save("training_quick")
    (gpu_run / "status.json").write_text(json.dumps({"device": "CPU, small version", "parts": {}}))
    _, rejected = adopt(gpu_run, *places)
    assert rejected == {
        "training_quick.json": "its name must end in _gpu, got training_quick",
        "piano-0.pt": "not trained on a GPU: CPU, small version",
    }


def test_a_damaged_checkpoint_is_rejected_and_the_old_one_stays(gpu_run, places):
    save_checkpoint(places[1] / "piano-0.pt", {"step": 1})
    (gpu_run / "training" / "piano-0.pt").write_bytes(b"half")
    _, rejected = adopt(gpu_run, *places)
    assert rejected["piano-0.pt"].startswith("damaged")
    assert load_checkpoint(places[1] / "piano-0.pt") == {"step": 1}


@pytest.mark.parametrize("content", [None, "half", "[]", '{"device": "GPU"}'])
def test_a_folder_that_is_not_of_a_run_is_rejected(gpu_run, places, content):
    (gpu_run / "status.json").unlink()
    if content is not None:
        (gpu_run / "status.json").write_text(content)
    with pytest.raises(ValueError, match=r"must hold the status\.json of a GPU run"):
        adopt(gpu_run, *places)
    assert not list(places[0].iterdir())
