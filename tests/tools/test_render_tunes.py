"""Any folder of MIDI files is rendered with one instrument, split by a table or by file names."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sashimi_lib.audio import read
from tools.synthesizer import SOUNDFONT, synthesize

mido = pytest.importorskip("mido")

from tools import render_tunes  # noqa: E402

needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.is_file(),
    reason="needs Debian's fluidsynth and fluid-soundfont-gm",
)


def midi_of(*notes: int, program: int | None = None, velocity: int = 64) -> bytes:
    """A MIDI file: one note of an eighth of a second after the other."""
    track = mido.MidiTrack()
    if program is not None:
        track.append(mido.Message("program_change", program=program))
    for note in notes:
        track.append(mido.Message("note_on", note=note, velocity=velocity))
        track.append(mido.Message("note_off", note=note, time=120))
    song, file = mido.MidiFile(tracks=[track]), io.BytesIO()
    song.save(file=file)
    return file.getvalue()


def programs(song: "mido.MidiFile") -> list[int]:
    """The programs with which the notes of the first channel are played."""
    current, played = 0, []
    for message in song:
        if message.type == "program_change" and message.channel == 0:
            current = message.program
        elif message.type == "note_on":
            played.append(current)
    return played


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["render_tunes", *map(str, arguments)])
    render_tunes.main()


@pytest.mark.parametrize("program", [None, 0, 40])
def test_all_notes_are_played_by_one_instrument(program: int | None) -> None:
    song = render_tunes.with_program(midi_of(60, 64, program=program), 11)
    assert programs(song) == [11, 11]
    assert song.length == mido.MidiFile(file=io.BytesIO(midi_of(60, 64))).length


def test_a_table_splits_the_files_of_an_archive(tmp_path: Path) -> None:
    rows = ["file,title,split", "1.mid,One,test", "2.mid,Two,train"]
    (tmp_path / "tunes.csv").write_text("\n".join(rows))
    with zipfile.ZipFile(tmp_path / "midi.zip", "w") as archive:
        archive.writestr("1.mid", b"one")
        archive.writestr("2.mid", b"two")
    assert render_tunes.read_tunes(tmp_path) == [("1.mid", "test", b"one"), ("2.mid", "train", b"two")]


def test_other_folders_are_split_by_file_names(tmp_path: Path) -> None:
    (tmp_path / "jigs").mkdir()
    for number in range(40):
        (tmp_path / "jigs" / f"{number}.mid").write_bytes(midi_of(number))
    (tmp_path / "REEL.MIDI").write_bytes(midi_of(50))
    (tmp_path / "README.txt").write_text("not a tune")
    tunes = render_tunes.read_tunes(tmp_path)
    assert len({tune.name for tune in tunes}) == len(tunes) == 41
    assert {tune.split for tune in tunes} == {"train", "valid", "test"}
    assert sum(tune.split == "train" for tune in tunes) > 30
    assert {tune.name: tune.midi for tune in tunes}["jigs/7.mid"] == midi_of(7)
    (tmp_path / "jigs" / "7.mid").unlink()
    remaining = {tune.name: tune.split for tune in render_tunes.read_tunes(tmp_path)}
    assert remaining == {tune.name: tune.split for tune in tunes if tune.name != "jigs/7.mid"}


def test_fewer_than_three_tunes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.mid").write_bytes(midi_of(60))
    with pytest.raises(ValueError, match="must contain at least three different recordings"):
        render_tunes.read_tunes(tmp_path)


@needs_fluidsynth
def test_a_folder_is_rendered_to_recordings_of_each_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "midi", tmp_path / "wav"
    (folder / "jigs").mkdir(parents=True)
    for name, note in (("1", 70), ("2", 71), ("jigs/3", 72)):
        (folder / f"{name}.mid").write_bytes(midi_of(69, note))
    run(monkeypatch, folder, output, "--rate", "16000", "--instrument", "marimba")
    names = {path.relative_to(output).as_posix().partition("/")[2] for path in output.rglob("*.wav")}
    assert names == {"1.wav", "2.wav", "jigs/3.wav"}
    assert {path.name for path in output.iterdir()} == {"train", "valid", "test"}
    waveform, rate = read(next(output.rglob("1.wav")))
    assert rate == 16_000
    assert 0.01 < waveform.abs().max() < 1
    assert (waveform - render_tunes.render(midi_of(69, 70), "marimba", 16_000)).abs().max() <= 2 / 32768
    assert capsys.readouterr().err == ""  # no progress bar in a log


@needs_fluidsynth
def test_instruments_differ_and_gain_is_a_factor() -> None:
    quiet, loud = (render_tunes.render(midi_of(69), gain=gain) for gain in (1.0, 2.0))
    assert torch.allclose(2 * quiet, loud[: len(quiet)])
    harp = render_tunes.render(midi_of(69), "harp", gain=2.0)
    common = min(len(loud), len(harp))
    assert not torch.allclose(loud[:common], harp[:common], atol=0.01)


@needs_fluidsynth
def test_a_rendering_ends_a_quarter_of_a_second_after_its_last_sound() -> None:
    waveform = render_tunes.render(midi_of(69))
    assert int((waveform.abs() > 1e-3).nonzero()[-1]) == len(waveform) - 2_000 - 1


def test_silence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"waveform must exceed .* somewhere, got silence"):
        render_tunes.trim_end(np.zeros(100), 8_000)


@needs_fluidsynth
def test_a_tune_that_clips_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, velocity in enumerate((20, 127, 21)):
        (tmp_path / f"{number}.mid").write_bytes(midi_of(60, velocity=velocity))
    with pytest.raises(ValueError, match=r"1\.mid: peak must be below 1, got .*: choose a smaller --gain"):
        run(monkeypatch, tmp_path, tmp_path / "wav", "--gain", "30")


@needs_fluidsynth
def test_a_rate_that_does_not_divide_48_khz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mid").write_bytes(midi_of(60))
    with pytest.raises(ValueError, match="sample_rate must divide 48000, got 44100"):
        synthesize(tmp_path / "a.mid", 44_100)
