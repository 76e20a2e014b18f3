"""Packed codes come back as they were, say what they are, and are refused where they are damaged."""

import pytest
import torch

from sashimi_lib.audio import write
from sashimi_lib.audio.quantizers import MuLaw
from tools import pack_codes
from tools.pack_codes import Packed, bundled_set, pack, read_set, unpack


@pytest.fixture
def sets():
    loud = torch.randint(0, 256, (3_000,))
    recordings = {"train": {"a.wav": loud, "b.wav": torch.arange(256)}, "valid": {"c.wav": loud[:1]}}
    return {"piano": Packed(16_000, "noise", "nobody, CC0", recordings)}


@pytest.fixture
def folder(tmp_path):
    for split, names in {"train": "abcd", "valid": "ef", "test": "gh"}.items():
        (tmp_path / split).mkdir()
        for name in names:
            write(tmp_path / split / f"{name}.wav", 0.5 * torch.rand(1_600) - 0.25, 16_000)
    return tmp_path


def test_what_is_packed_comes_back_to_the_last_code(sets, tmp_path):
    size = pack(tmp_path / "codes", sets)
    assert size < (tmp_path / "codes").stat().st_size
    (name, back), (_, packed) = *unpack(tmp_path / "codes").items(), *sets.items()
    assert (name, back.sample_rate, back.data, back.credit) == ("piano", 16_000, "noise", "nobody, CC0")
    assert back.recordings.keys() == packed.recordings.keys()
    for split, files in packed.recordings.items():
        assert list(back.recordings[split]) == list(files)
        assert all(torch.equal(back.recordings[split][file], codes) for file, codes in files.items())
        assert back.corpus[split][0].dtype == torch.int64


def test_music_takes_much_less_than_a_byte_a_sample(tmp_path):
    samples = sum(len(codes) for clips in bundled_set()["piano"].corpus.values() for codes in clips)
    assert pack(tmp_path / "codes", bundled_set()) < 0.75 * samples


@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_a_damaged_file_is_refused_by_name(sets, tmp_path, place):
    path = tmp_path / "codes"
    pack(path, sets)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"path must be a file of packed codes, got {path}"):
        unpack(path)


def test_a_foreign_file_is_refused_by_name_and_a_missing_one_is_missing(tmp_path):
    (tmp_path / "other").write_text("not codes")
    with pytest.raises(ValueError, match=r"path must be a file of packed codes, got .*other"):
        unpack(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "none")


def test_too_large_a_file_is_not_written(sets, tmp_path):
    with pytest.raises(ValueError, match=r"at most 100 bytes, got .*: use fewer minutes"):
        pack(tmp_path / "codes", sets, limit=100)
    assert not list(tmp_path.iterdir())


def test_codes_of_16_bits_are_refused():
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.255"):
        pack_codes.compress(torch.tensor([0, 256]))


def test_a_set_is_read_with_the_names_of_its_files_and_so_many_minutes_of_each_split(folder):
    whole, half = (read_set("piano", folder, minutes) for minutes in (1.0, 0.8 / 120))
    files = {split: list(recordings) for split, recordings in half.recordings.items()}
    assert files == {"train": ["a.wav", "b.wav"], "valid": ["e.wav"], "test": ["g.wav"]}
    assert list(whole.recordings["train"]) == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert (whole.sample_rate, whole.credit) == (16_000, pack_codes.TASKS["piano"].credit)
    assert whole.minutes("train") == pytest.approx(0.4 / 60)


def test_the_command_packs_and_says_what_it_packed(folder, monkeypatch, capsys):
    path = folder / "codes"
    monkeypatch.setattr("sys.argv", ["pack_codes.py", str(path), "--piano", str(folder)])
    pack_codes.main()
    assert "piano, train 0.0 min" in capsys.readouterr().out
    packed = unpack(path)["piano"]
    assert len(packed.corpus["test"]) == 2
    assert bool((packed.corpus["train"][0] < MuLaw().levels).all())


def test_the_command_wants_a_folder(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pack_codes.py", "codes"])
    with pytest.raises(SystemExit):
        pack_codes.main()
    assert "give at least one folder: --piano or --tunes" in capsys.readouterr().err
