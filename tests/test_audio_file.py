"""Files are read to their end, whatever their headers say; and what is lost on the way is refused or told."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib import audio
from sashimi_lib.audio.decoder import HIGHEST_RATE, Downmix, blocks, count_frames, header_of
from tests.strange_audio import of_unknown_length, tune, without_info_frame, write_mp3

SECONDS = 6
LONG = tune(SECONDS)


def mp3(folder: Path, mode: str, info: bool) -> Path:
    path = write_mp3(folder / "a.mp3", LONG, mode=mode)
    return path if info else without_info_frame(path)


def joined(folder: Path) -> Path:
    first, second = write_mp3(folder / "b.mp3", LONG), write_mp3(folder / "c.mp3", LONG[::-1].copy())
    path = folder / "joined.mp3"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def cut(folder: Path) -> Path:
    path = mp3(folder, "VARIABLE", info=True)
    path.write_bytes(path.read_bytes()[:-20_000])
    return path


def flac(folder: Path) -> Path:
    soundfile.write(folder / "a.flac", LONG, 44_100)
    return of_unknown_length(folder / "a.flac")


def killed_flac(folder: Path) -> Path:
    """As a program leaves it that was killed while it wrote."""
    path = flac(folder)
    path.write_bytes(path.read_bytes()[:-10_000])
    return path


STRANGE: dict[str, Callable[[Path], Path]] = {
    "vbr": lambda folder: mp3(folder, "VARIABLE", info=False),
    "cbr": lambda folder: mp3(folder, "CONSTANT", info=False),
    "plain": lambda folder: mp3(folder, "VARIABLE", info=True),
    "joined": joined,
    "cut": cut,
    "flac": flac,
    "killed": killed_flac,
}


def whole(path: Path) -> np.ndarray:
    return np.concatenate(list(blocks(path)))[:, 0]


# --- headers that say nothing, or something else


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_without_its_first_frame_is_read_to_its_end(tmp_path: Path, mode: str) -> None:
    x = whole(mp3(tmp_path, mode, info=False))
    assert SECONDS * 44_100 <= len(x) < (SECONDS + 0.1) * 44_100  # whole frames, and the encoder's delay
    assert np.sqrt(np.mean(x[-44_100:] ** 2)) == pytest.approx(
        np.sqrt(np.mean(LONG[-44_100:] ** 2)), rel=0.05
    )


def test_joined_mp3_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = joined(tmp_path)
    apart = np.concatenate([whole(tmp_path / "b.mp3"), whole(tmp_path / "c.mp3")])
    assert len(apart) == 2 * len(LONG)
    assert np.array_equal(whole(path), apart)
    with pytest.warns(UserWarning, match=r"joined\.mp3 holds 529,200 samples, and its header says 264,600"):
        assert len(audio.read(path)[0]) == len(apart)


def test_mp3_files_of_two_rates_are_not_joined_in_silence(tmp_path: Path) -> None:
    first, second = write_mp3(tmp_path / "a.mp3", LONG), write_mp3(tmp_path / "b.mp3", LONG, rate=22_050)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(ValueError, match=r"a\.mp3 cannot be read as audio: .*44,100 and 22,050 Hz"):
        whole(first)


def test_tags_around_an_mp3_are_no_sound(tmp_path: Path) -> None:
    path = mp3(tmp_path, "VARIABLE", info=True)
    bare, tag = path.read_bytes(), b"ID3\4\0\0\0\0\7\x68" + b"\0" * 1_000  # 7 * 128 + 0x68 = 1,000
    for data in (tag + bare, bare + b"TAG" + b"\0" * 125, tag + bare + b"APETAGEX" + b"\0" * 9_000):
        path.write_bytes(data)
        header = header_of(path)
        assert header.frames == count_frames(path, header) == len(whole(path)) == len(LONG)


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    x = torch.round(torch.from_numpy(LONG) * 2**15) / 2**15
    path = flac(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is no lie to say nothing
        assert torch.allclose(audio.read(path)[0], x, atol=2**-15)
    killed = killed_flac(tmp_path)
    rest = audio.read(killed)[0]
    assert 0.8 * len(x) < len(rest) < len(x)
    assert torch.allclose(rest, x[: len(rest)], atol=2**-15)


@pytest.mark.parametrize("kind", STRANGE)
def test_pieces_are_those_of_the_whole(tmp_path: Path, kind: str) -> None:
    path = STRANGE[kind](tmp_path)
    x, header = whole(path), header_of(path)
    assert count_frames(path, header) == len(x)
    for start, frames in ((0, 100), (len(x) // 2, 9_000), (len(x) - 50, 50), (len(x) - 50, 500)):
        piece = np.concatenate(list(blocks(path, start, frames)))[:, 0]
        assert np.abs(piece - x[start : start + frames]).max() < 1e-6
    assert list(blocks(path, len(x), 10)) == []


def test_a_cut_mp3_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"a\.mp3 holds [\d,]+ samples, and its header says 264,600"):
        x, _ = audio.read(cut(tmp_path))
    assert 44_100 < len(x) < len(LONG)


def test_an_impossible_rate_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", LONG, 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = (2_000_000_011).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    for call in (header_of, audio.read):
        with pytest.raises(
            ValueError, match=r"a\.wav must have a sample rate.*its header says 2,000,000,011"
        ):
            call(tmp_path / "a.wav")
    for rate in (0, HIGHEST_RATE + 1):
        with pytest.raises(ValueError, match=f"rate_out must be a positive whole number.*got {rate}"):
            audio.resample(torch.zeros(10), 8_000, rate)


# --- what mixing down loses


def noise(channels: int = 1, level: float = 0.3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-level, level, (16_000, channels))


@pytest.mark.parametrize(
    ("x", "because"),
    [
        (
            noise() * 32_767,
            r"has samples of [\d,.]+: numbers of 16 bits kept as floats, to be divided by 32,768",
        ),
        (noise(level=4), "has samples of 4; scale it"),
        (noise() @ np.array([[1.0, -1.0]]), "channels that cancel each other"),
        (noise() @ np.array([[1.0, -0.9, 0.0]]), "channels that cancel each other"),
        (np.where(noise() > 0.29, np.nan, 0), "holds NaN or infinite samples"),
        (np.where(noise() > 0.29, np.inf, 0), "holds NaN or infinite samples"),
    ],
)
def test_what_would_be_destroyed_is_refused_by_name(tmp_path: Path, x: np.ndarray, because: str) -> None:
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=rf"a\.wav .*{because}"):
        audio.read(tmp_path / "a.wav")


def test_a_small_overshoot_is_clipped_and_counted(tmp_path: Path) -> None:
    x = noise(level=0.9)
    x[[7, 8, 4_000]] = 1.2
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"a\.wav: clipped 3 samples beyond full scale"):
        back, _ = audio.read(tmp_path / "a.wav")
    assert np.abs(back.numpy() - x[:, 0].clip(-1, 1)).max() < 1e-6


@pytest.mark.parametrize("mixed", [np.array([[1.0, 1.0]]), np.array([[1.0, 0.0]]), np.array([[1.0, -0.5]])])
def test_other_channels_are_mixed_without_a_word(tmp_path: Path, mixed: np.ndarray) -> None:
    x = np.concatenate([noise(), np.zeros((100, 1))]) @ mixed
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back, _ = audio.read(tmp_path / "a.wav")
        assert (audio.read(tmp_path / "a.wav", start=16_000, frames=50)[0] == 0).all()
    assert np.abs(back.numpy() - x.mean(1)).max() < 1e-6


def test_channels_may_cancel_for_a_while(tmp_path: Path) -> None:
    x = np.concatenate([noise() @ np.array([[1.0, -1.0]]), noise() @ np.array([[1.0, 1.0]])])
    soundfile.write(tmp_path / "a.wav", x, 16_000)
    assert (
        len(audio.read(tmp_path / "a.wav")[0]) == len(audio.read(tmp_path / "a.wav", 0, 32_000)[0]) == 32_000
    )


def test_the_mixture_is_the_same_in_blocks_of_any_size() -> None:
    x = noise(channels=3).astype("float32")
    mix, again = Downmix(Path("a.wav")), Downmix(Path("a.wav"))
    at_once = mix(x)
    assert np.array_equal(np.concatenate([again(block) for block in np.array_split(x, 7)]), at_once)
    assert again.energy == pytest.approx(mix.energy)
    assert again.energy_apart == pytest.approx(mix.energy_apart)


# --- by blocks


@given(
    length=st.integers(1, 3_000),
    size=st.integers(1, 2_000),
    rates=st.sampled_from(
        [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (3, 2), (1, 7), (101, 16), (5, 5)]
    ),
)
def test_resampled_in_pieces_is_resampled_at_once(length: int, size: int, rates: tuple[int, int]) -> None:
    x = torch.rand(length) * 2 - 1
    pieces = list(audio.resampled((piece.numpy() for piece in x.split(size)), *rates))
    assert np.abs(np.concatenate(pieces) - audio.resample(x, *rates).numpy()).max() < 1e-6


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 12_345])
def test_decoding_at_a_rate_is_reading_and_resampling(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([LONG, LONG**2], 1), rate)
    decoded = audio.decode(tmp_path / "a.wav", 16_000)
    x, _ = audio.read(tmp_path / "a.wav")
    assert (decoded.sample_rate, decoded.clipped, decoded.lie) == (16_000, 0, "")
    assert (decoded.waveform - audio.resample(x, rate, 16_000)).abs().max() < 1e-6


@pytest.mark.slow
def test_long_recordings_take_little_more_memory_than_they_are_kept_in(tmp_path: Path) -> None:
    minute = np.tile(tune(1.0, 48_000), 60)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 48_000, 2, "PCM_16") as file:
        for _ in range(5):
            file.write(np.stack([minute, 0.5 * minute], 1))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from sashimi_lib.data.clips import look_at\n"
        "from sashimi_lib.data.corpora import FOLDER\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "files, _ = look_at([Path(sys.argv[1])])\n"
        "before = most()\n"
        "codes = FOLDER.codes_of(files)\n"
        "print(len(codes[0]), most() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "long.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    samples, mebibytes = map(float, done.stdout.split())
    assert samples == 5 * 60 * 16_000
    assert mebibytes < 120  # 18 as samples; as they were recorded 110 in float32, and twice that to mix them
