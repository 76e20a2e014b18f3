"""Recordings as a run takes them, and as a model is judged on them later: the same files in each part."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from sashimi_lib import audio
from sashimi_lib.cli import main
from sashimi_lib.cli.recordings import codes_of, evaluation_length, file_lists, waveforms_of
from sashimi_lib.cli.run_folder import check_recordings
from sashimi_lib.data.corpora import BEETHOVEN, FOLDER, FSDD, Corpus
from sashimi_lib.data.split import PARTS, FileLists
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.pretrained import load, save
from sashimi_lib.training import recipes

RATE = 4_000
SMALL = ["--model.d-model", "4", "--model.n-layers", "1", "--model.ssm.d-state", "4", "--length", "128"]
MODEL = "runs/my-wavs/model.safetensors"
TRAIN = ["train", "my-wavs", "--data", "recordings", *SMALL, "--device", "cpu", "--steps", "1"]
EVALUATE = ["evaluate", MODEL, "--data", "recordings", "--seconds", "0.1", "--device", "cpu"]


def tone(number: int, samples: int = 1_000) -> torch.Tensor:
    return 0.3 * torch.sin(0.1 * (1 + number) * torch.arange(samples))


def record(*names: str | int) -> None:
    for number, name in enumerate(names):
        path = Path("recordings") / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio.write(path, tone(number), RATE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where commands are run, with twenty recordings of a quarter of a second."""
    monkeypatch.chdir(tmp_path)
    record(*range(20))
    return tmp_path


@pytest.fixture
def trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> FileLists:
    """The recordings of a run there, by their parts."""
    assert main(TRAIN) == 0
    capsys.readouterr()
    lists = load(MODEL).card.recordings
    assert lists is not None
    return lists


# --- for training


def test_codes_of_each_part_are_of_its_length_and_rate(folder: Path) -> None:
    recipe = replace(recipes.SMALL_SASHIMI, length=300, sample_rate=2 * RATE)
    parts = FOLDER.parts("recordings")
    codes = codes_of(FOLDER, parts, recipe, progress=False)
    assert all(len(x) == 2_000 for part in ("valid", "test") for x in codes[part].sequences)
    assert {len(x) for x in codes["train"].sequences} == {300, 200}
    for part in PARTS:
        assert set(codes[part].recordings or ()) == {file.path for file in parts[part]}
    first = parts["valid"][0].path
    wanted = recipe.quantizer.encode(audio.resample(audio.read(first)[0], RATE, 2 * RATE))
    assert torch.equal(codes["valid"][0], wanted)


def test_pieces_that_are_judged_are_the_corpus_own_or_four_seconds() -> None:
    assert evaluation_length(FOLDER, 8_000) == 32_000
    assert evaluation_length(BEETHOVEN, 16_000) == 128_000
    assert evaluation_length(BEETHOVEN, 8_000) == 64_000


def diffusion(length: int) -> recipes.DiffusionRecipe:
    return replace(recipes.DIGITS_DIFFWAVE, length=length, sample_rate=RATE)


def test_waveforms_are_whole_or_most_of_it_and_what_is_too_short_is_named(folder: Path) -> None:
    audio.write("recordings/short.wav", tone(99, 90), RATE)
    parts = FOLDER.parts("recordings")
    with pytest.warns(
        UserWarning, match=r"1 recordings of \w+, shorter than 100 samples: recordings/short\.wav"
    ):
        waveforms = waveforms_of(FOLDER, parts, diffusion(400), progress=False)
    lengths = [len(x) for part in PARTS for x in waveforms[part]]
    assert sorted(lengths) == [200] * 20 + [400] * 40
    assert all(isinstance(x, torch.Tensor) for part in PARTS for x in waveforms[part])


def test_ends_that_are_left_over_are_no_sounds(folder: Path) -> None:
    waveforms = waveforms_of(FOLDER, FOLDER.parts("recordings"), diffusion(900), progress=False)
    assert {len(x) for part in PARTS for x in waveforms[part]} == {900}


def test_a_part_of_which_nothing_is_left_is_refused_before_training(folder: Path) -> None:
    parts = FOLDER.parts("recordings")
    for file in parts["test"]:
        audio.write(file.path, tone(1, 90), RATE)
    with pytest.raises(
        ValueError, match=r"--length 400 needs recordings of at least 100.*test has none: rec"
    ):
        waveforms_of(FOLDER, FOLDER.parts("recordings"), diffusion(400), progress=False)


def test_waveforms_come_with_classes_where_the_model_and_the_corpus_have_them(folder: Path) -> None:
    record(*(f"recordings/{take % 10}_theo_{take}" for take in range(10)))
    fsdd = replace(FSDD, n_recordings=None, archive=None)
    parts = fsdd.parts("recordings")
    pairs = waveforms_of(fsdd, parts, diffusion(1_000), progress=False)["test"]
    assert [label for _, label in pairs] == [0, 1, 2, 3, 4]  # type: ignore[misc]
    label_dropout: Corpus = replace(fsdd, label=None)
    assert all(
        isinstance(x, torch.Tensor)
        for x in waveforms_of(label_dropout, parts, diffusion(1_000), False)["test"]
    )


def test_recordings_of_published_corpora_are_not_listed(folder: Path) -> None:
    parts = FOLDER.parts("recordings")
    assert file_lists(BEETHOVEN, parts, Path("recordings")) is None
    lists = file_lists(FOLDER, parts, Path("recordings"))
    assert lists is not None
    assert sorted(lists.train + lists.valid + lists.test) == sorted(f"{n}.wav" for n in range(20))


# --- the lists of a run


def test_the_run_and_the_model_keep_the_lists(trained: FileLists) -> None:
    wanted = {part: [file.path.name for file in files] for part, files in FOLDER.parts("recordings").items()}
    assert trained.as_json() == wanted
    assert json.loads(Path("runs/my-wavs/run.json").read_text())["recordings"] == wanted


def test_a_run_does_not_go_on_with_other_recordings(
    trained: FileLists, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = trained.train[0]
    Path("recordings", gone).rename("recordings/other.wav")
    assert main(TRAIN) == 1
    said = capsys.readouterr().err
    assert said.startswith("sashimi: runs/my-wavs/run.pt belongs to a run with other recordings: ")
    assert f"{gone} is gone" in said
    assert "other.wav is new" in said


def test_a_run_that_kept_no_lists_is_not_taken_for_the_same(trained: FileLists) -> None:
    path = Path("runs/my-wavs/run.json")
    check_recordings(Path("runs/my-wavs/run.pt"), trained)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "recordings"}))
    with pytest.raises(ValueError, match="other recordings: its own are not listed"):
        check_recordings(Path("runs/my-wavs/run.pt"), trained)


def test_a_model_is_judged_on_the_test_of_its_training_whatever_came_since(
    trained: FileLists, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(EVALUATE) == 0
    before = capsys.readouterr().out
    pretrained = load(MODEL)
    pieces = [
        piece
        for name in trained.test
        for piece in pretrained.model.quantizer.encode(audio.read(Path("recordings", name))[0]).split(400)
    ]
    lengths = torch.tensor([len(piece) for piece in pieces]).double()
    bits = float(clip_bits(pretrained.model, pieces) @ lengths / lengths.sum())  # type: ignore[arg-type]
    assert before.startswith(f"bits: {bits:.3f} bits")
    record(*(f"new/{number}" for number in range(30)))
    with pytest.warns(
        UserWarning,
        match=r"recordings: left out 30 recordings that .* did not have: new/0\.wav",
    ) as caught:
        assert main(EVALUATE) == 0
    assert len(caught) == 1
    assert capsys.readouterr().out == before


def test_recordings_of_the_test_that_are_gone_are_named(
    trained: FileLists, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recordings", trained.train[0]).unlink()
    assert main(EVALUATE) == 0  # the test is whole
    Path("recordings", trained.test[0]).unlink()
    assert main(EVALUATE) == 1
    said = capsys.readouterr().err
    assert re.search(rf"lacks some of the \d+ recordings of test: {re.escape(trained.test[0])} missing", said)
    assert "--part all" in said
    assert main([*EVALUATE, "--part", "all"]) == 0


def test_a_model_that_keeps_no_lists_says_how_it_is_judged(
    trained: FileLists, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(MODEL)
    assert main(EVALUATE) == 0
    before = capsys.readouterr().out
    save(MODEL, model.model, model.sample_rate, replace(model.card, recordings=None))
    with pytest.warns(UserWarning, match=f"{MODEL} does not list its training recordings: test is"):
        assert main(EVALUATE) == 0
    assert capsys.readouterr().out == before  # nothing has changed here since


# --- what is said


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1", "0.00001"])
def test_impossible_seconds_are_named(folder: Path, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "piano", "--data", "recordings", "--seconds", seconds]) == 1
    assert capsys.readouterr().err.startswith("sashimi: --seconds must be finite and at least one sample")


@pytest.mark.parametrize("rate", ["0", "-8000", "2000000011"])
def test_an_impossible_rate_is_named_as_it_was_given(
    folder: Path, rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--sample-rate", rate]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sashimi: --sample-rate must be")
    assert said.count("\n") == 1


def test_what_is_left_out_is_said_once_and_plainly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("recordings/bad.wav").write_bytes(b"RIFF")
    Path("recordings/more.m4a").write_bytes(bytes(100))
    soundfile.write("recordings/silent.wav", torch.zeros(1_000).numpy(), RATE)
    with pytest.warns(UserWarning, match="skipped") as caught:
        assert main(TRAIN) == 0
    said = [str(warning.message) for warning in caught]
    assert len(said) == 3
    for name in ("bad.wav", "more.m4a", "silent.wav is silent"):
        assert sum(name in line for line in said) == 1


@pytest.mark.slow
def test_warnings_and_errors_are_lines_that_keep_their_spaces(folder: Path) -> None:
    audio.write("recordings/a  b.wav", tone(1), RATE)
    Path("recordings/a  b.m4a").write_bytes(b"")
    command = [sys.executable, "-m", "sashimi_lib", *TRAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"sashimi: warning: skipped[^\n]*recordings/a  b\.m4a[^\n]*\n", done.stderr)
    command[command.index("recordings")] = "two  spaces"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("sashimi: two  spaces must be a folder of recordings")
    assert done.stderr.count("\n") == 1
