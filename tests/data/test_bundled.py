"""The bundled clips: small, credited, complete, and reproducible by the script that made them."""

import io
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sashimi_lib.audio import check_waveform, read, rms_db
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import bigram_bits
from tools.render_piano import render
from tools.synthesizer import SOUNDFONT

needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.is_file(),
    reason="needs Debian's fluidsynth and fluid-soundfont-gm",
)


def phrases(midi: bytes, length: int = 16) -> set[tuple[int, ...]]:
    """All sequences of so many intervals between successive notes."""
    import mido

    song = mido.MidiFile(file=io.BytesIO(midi))
    notes = [message.note for message in song if message.type == "note_on" and message.velocity > 0]
    intervals = [b - a for a, b in pairwise(notes)]
    return {tuple(intervals[start : start + length]) for start in range(len(intervals) - length + 1)}


def all_clips() -> list[bundled.Clip]:
    return [*bundled.spoken_digits().values(), *bundled.sentences(), bundled.piano(), *bundled.tunes()]


def test_all_bundled_files_take_at_most_2_6_megabytes() -> None:
    assert sum(path.stat().st_size for path in bundled.AUDIO.iterdir()) <= 2_600_000


def test_every_clip_is_valid_audio_and_names_its_source() -> None:
    clips = all_clips()
    assert len(clips) == 15
    for clip in clips:
        check_waveform(clip.waveform)
        assert -30 < rms_db(clip.waveform) < -15
        assert clip.title
        assert any(word in clip.credit for word in ("CC BY-SA", "public domain"))


def test_the_credits_list_every_audio_file_and_license() -> None:
    credits = (bundled.AUDIO / "CREDITS.md").read_text()
    named = ["digit_0.flac", "digit_9.flac", "sentence_1.flac", "sentence_2.flac", "piano.flac"]
    named += ["tune_1.flac", "tune_2.flac"]
    licenses = ["CC-BY-SA-3.0.txt", "MIT-FluidR3.txt"]
    for name in named + licenses:
        assert name in credits
        assert (bundled.AUDIO / name).is_file()
    for name in ("Allison Smith", "Digium", "Stelios Samelis", "Frank Wen", "LibriVox", "Ray Davies"):
        assert name in credits


def test_the_piano_is_long_enough_and_its_test_part_is_separate() -> None:
    clip = bundled.piano()
    assert clip.seconds >= 60
    assert torch.equal(torch.cat([clip.train, clip.test]), clip.waveform)
    assert len(clip.test) == 16 * clip.sample_rate


def test_a_piano_clip_is_split_at_test_seconds() -> None:
    clip = bundled.PianoClip(torch.arange(50.0), sample_rate=10, title="t", credit="c", test_seconds=2)
    assert clip.seconds == 5
    assert torch.equal(clip.train, torch.arange(30.0))
    assert torch.equal(clip.test, torch.arange(30.0, 50.0))


def test_the_test_part_does_not_occur_in_the_training_part() -> None:
    clip = bundled.piano()
    step = 160  # a level every 10 ms: a repetition, even played anew, would correlate
    train, test = (part.unfold(0, step, step).square().mean(1).log1p() for part in (clip.train, clip.test))
    for start in range(0, len(test) - 400, 200):
        segment = test[start : start + 400]
        windows = train.unfold(0, 400, 10)
        a = segment - segment.mean()
        b = windows - windows.mean(1, keepdim=True)
        assert float(((b @ a) / (b.norm(dim=1) * a.norm())).max()) < 0.9


def test_the_piano_is_neither_trivial_nor_noise_for_a_bigram_model() -> None:
    clip = bundled.piano()
    codes = MuLaw().encode(clip.train), MuLaw().encode(clip.test)
    assert 5.2 < bigram_bits(*codes) < 5.8


def test_the_tunes_are_about_a_minute() -> None:
    assert {clip.sample_rate for clip in bundled.tunes()} == {8000}
    assert 50 < sum(clip.seconds for clip in bundled.tunes()) < 70


# Processors may round the synthesizer's floats differently in the last bit.
ROUNDING = 2 / 32768


@needs_fluidsynth
def test_the_script_reproduces_the_piano() -> None:
    assert (render() - bundled.piano().waveform).abs().max() < ROUNDING


@needs_fluidsynth
def test_the_script_reproduces_the_tunes() -> None:
    pytest.importorskip("mido")
    from tools import bundle_tunes, render_tunes

    for midi, clip in zip(bundle_tunes.TUNES, bundled.tunes(), strict=True):
        assert (render_tunes.render(midi.read_bytes()) - clip.waveform).abs().max() < ROUNDING


def test_the_tunes_are_in_no_training_part(shared: Path) -> None:
    """Neither their files nor their melodies, in any key: no 17 notes in a row."""
    pytest.importorskip("mido")
    from tools import bundle_tunes, render_tunes

    tunes = render_tunes.read_tunes(shared / "data" / "folk_tunes")
    learned = set().union(*(phrases(tune.midi) for tune in tunes if tune.split != "test"))
    for midi in bundle_tunes.TUNES:
        assert midi.read_bytes() in [tune.midi for tune in tunes if tune.split == "test"]
        assert not phrases(midi.read_bytes()) & learned


def test_the_digits_equal_those_of_the_debian_package() -> None:
    source = Path("/usr/share/asterisk/sounds/en_US_f_Allison/digits")
    if not source.is_dir():
        pytest.skip("needs Debian's asterisk-core-sounds-en-wav")
    for digit, clip in bundled.spoken_digits().items():
        assert torch.equal(clip.waveform, read(source / f"{digit}.wav")[0])
