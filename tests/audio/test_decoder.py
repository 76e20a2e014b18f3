"""Files are decoded to their end, whatever their headers say; what the downmix would destroy is refused."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sashimi_lib import audio
from sashimi_lib.audio.decoder import MAX_SAMPLE_RATE, Downmix, count_frames, read_blocks, read_header
from tests.audio_files import tune, with_unknown_length, without_info_frame, write_mp3

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


def truncated_mp3(folder: Path) -> Path:
    path = mp3(folder, "VARIABLE", info=True)
    path.write_bytes(path.read_bytes()[:-20_000])
    return path


def flac(folder: Path) -> Path:
    soundfile.write(folder / "a.flac", LONG, 44_100)
    return with_unknown_length(folder / "a.flac")


def killed_flac(folder: Path) -> Path:
    """A FLAC file of a program that was killed while writing."""
    path = flac(folder)
    path.write_bytes(path.read_bytes()[:-10_000])
    return path


MALFORMED: dict[str, Callable[[Path], Path]] = {
    "vbr": lambda folder: mp3(folder, "VARIABLE", info=False),
    "cbr": lambda folder: mp3(folder, "CONSTANT", info=False),
    "plain": lambda folder: mp3(folder, "VARIABLE", info=True),
    "joined": joined,
    "truncated": truncated_mp3,
    "flac": flac,
    "killed": killed_flac,
}


def decode_all(path: Path) -> np.ndarray:
    return np.concatenate(list(read_blocks(path)))[:, 0]


# --- missing and wrong headers


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_without_an_info_frame_is_decoded_to_its_end(tmp_path: Path, mode: str) -> None:
    x = decode_all(mp3(tmp_path, mode, info=False))
    assert SECONDS * 44_100 <= len(x) < (SECONDS + 0.1) * 44_100  # complete frames, and the encoder's delay
    assert np.sqrt(np.mean(x[-44_100:] ** 2)) == pytest.approx(
        np.sqrt(np.mean(LONG[-44_100:] ** 2)), rel=0.05
    )


def test_concatenated_mp3_files_are_decoded_one_after_the_other(tmp_path: Path) -> None:
    path = joined(tmp_path)
    separate = np.concatenate([decode_all(tmp_path / "b.mp3"), decode_all(tmp_path / "c.mp3")])
    assert len(separate) == 2 * len(LONG)
    assert np.array_equal(decode_all(path), separate)
    with pytest.warns(
        UserWarning, match=r"joined\.mp3 contains 529,200 samples, but its header says 264,600"
    ):
        assert len(audio.read(path)[0]) == len(separate)


def test_concatenated_mp3_files_of_two_sample_rates_are_refused(tmp_path: Path) -> None:
    first, second = write_mp3(tmp_path / "a.mp3", LONG), write_mp3(tmp_path / "b.mp3", LONG, rate=22_050)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(ValueError, match=r"a\.mp3 cannot be read as audio: .*44,100 and 22,050 Hz"):
        decode_all(first)


def test_tags_around_an_mp3_are_not_decoded(tmp_path: Path) -> None:
    path = mp3(tmp_path, "VARIABLE", info=True)
    untagged, tag = path.read_bytes(), b"ID3\4\0\0\0\0\7\x68" + b"\0" * 1_000  # 7 * 128 + 0x68 = 1,000
    for data in (
        tag + untagged,
        untagged + b"TAG" + b"\0" * 125,
        tag + untagged + b"APETAGEX" + b"\0" * 9_000,
    ):
        path.write_bytes(data)
        header = read_header(path)
        assert header.frames == count_frames(path, header) == len(decode_all(path)) == len(LONG)


def test_flac_of_unknown_length_is_decoded_to_its_end(tmp_path: Path) -> None:
    x = torch.round(torch.from_numpy(LONG) * 2**15) / 2**15
    path = flac(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a header without a length does not contradict the file
        assert torch.allclose(audio.read(path)[0], x, atol=2**-15)
    killed = killed_flac(tmp_path)
    truncated = audio.read(killed)[0]
    assert 0.8 * len(x) < len(truncated) < len(x)
    assert torch.allclose(truncated, x[: len(truncated)], atol=2**-15)


@pytest.mark.parametrize("kind", MALFORMED)
def test_segments_equal_slices_of_the_whole_file(tmp_path: Path, kind: str) -> None:
    path = MALFORMED[kind](tmp_path)
    x, header = decode_all(path), read_header(path)
    assert count_frames(path, header) == len(x)
    for start, frames in ((0, 100), (len(x) // 2, 9_000), (len(x) - 50, 50), (len(x) - 50, 500)):
        segment = np.concatenate(list(read_blocks(path, start, frames)))[:, 0]
        assert np.abs(segment - x[start : start + frames]).max() < 1e-6
    assert list(read_blocks(path, len(x), 10)) == []


def test_a_truncated_mp3_causes_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"a\.mp3 contains [\d,]+ samples, but its header says 264,600"):
        x, _ = audio.read(truncated_mp3(tmp_path))
    assert 44_100 < len(x) < len(LONG)


def test_an_impossible_sample_rate_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", LONG, 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = (2_000_000_011).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    for call in (read_header, audio.read):
        with pytest.raises(
            ValueError, match=r"a\.wav must have a sample rate.*got 2,000,000,011 in its header"
        ):
            call(tmp_path / "a.wav")
    for rate in (0, MAX_SAMPLE_RATE + 1):
        with pytest.raises(ValueError, match=f"rate_out must be a positive integer.*got {rate}"):
            audio.resample(torch.zeros(10), 8_000, rate)


# --- downmix


def noise(channels: int = 1, level: float = 0.3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-level, level, (16_000, channels))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            noise() * 32_767,
            r"must lie in .*, got a peak of [\d,.]+; 16-bit integers stored as floats\? divide by 32,768",
        ),
        (noise(level=4), r"must lie in \[-1, 1\], got a peak of 4; scale it first"),
        (noise() @ np.array([[1.0, -1.0]]), "channels that cancel each other"),
        (noise() @ np.array([[1.0, -0.9, 0.0]]), "channels that cancel each other"),
        (np.where(noise() > 0.29, np.nan, 0), "must be finite, got NaN or infinite samples"),
        (np.where(noise() > 0.29, np.inf, 0), "must be finite, got NaN or infinite samples"),
    ],
)
def test_audio_that_the_downmix_would_destroy_is_refused_and_named(
    tmp_path: Path, x: np.ndarray, message: str
) -> None:
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=rf"a\.wav .*{message}"):
        audio.read(tmp_path / "a.wav")


def test_a_small_overshoot_is_clipped_and_counted(tmp_path: Path) -> None:
    x = noise(level=0.9)
    x[[7, 8, 4_000]] = 1.2
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"a\.wav: clipped 3 samples beyond full scale"):
        back, _ = audio.read(tmp_path / "a.wav")
    assert np.abs(back.numpy() - x[:, 0].clip(-1, 1)).max() < 1e-6


@pytest.mark.parametrize("mixed", [np.array([[1.0, 1.0]]), np.array([[1.0, 0.0]]), np.array([[1.0, -0.5]])])
def test_channels_that_do_not_cancel_are_mixed_without_a_warning(tmp_path: Path, mixed: np.ndarray) -> None:
    x = np.concatenate([noise(), np.zeros((100, 1))]) @ mixed
    soundfile.write(tmp_path / "a.wav", x, 16_000, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back, _ = audio.read(tmp_path / "a.wav")
        assert (audio.read(tmp_path / "a.wav", start=16_000, frames=50)[0] == 0).all()
    assert np.abs(back.numpy() - x.mean(1)).max() < 1e-6


def test_channels_may_cancel_in_a_part_of_the_file(tmp_path: Path) -> None:
    x = np.concatenate([noise() @ np.array([[1.0, -1.0]]), noise() @ np.array([[1.0, 1.0]])])
    soundfile.write(tmp_path / "a.wav", x, 16_000)
    assert (
        len(audio.read(tmp_path / "a.wav")[0]) == len(audio.read(tmp_path / "a.wav", 0, 32_000)[0]) == 32_000
    )


def test_the_downmix_is_the_same_in_blocks_of_any_size() -> None:
    x = noise(channels=3).astype("float32")
    mix, blockwise = Downmix(Path("a.wav")), Downmix(Path("a.wav"))
    mixed = mix(x)
    assert np.array_equal(np.concatenate([blockwise(block) for block in np.array_split(x, 7)]), mixed)
    assert blockwise.mix_energy == pytest.approx(mix.mix_energy)
    assert blockwise.channel_energy == pytest.approx(mix.channel_energy)


# --- decoding at another sample rate


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 12_345])
def test_decoding_at_a_rate_equals_reading_and_resampling(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([LONG, LONG**2], 1), rate)
    decoded = audio.decode(tmp_path / "a.wav", 16_000)
    x, _ = audio.read(tmp_path / "a.wav")
    assert (decoded.sample_rate, decoded.clipped, decoded.header_mismatch) == (16_000, 0, "")
    assert (decoded.waveform - audio.resample(x, rate, 16_000)).abs().max() < 1e-6


@pytest.mark.slow
def test_long_recordings_take_little_more_memory_than_their_codes(tmp_path: Path) -> None:
    minute = np.tile(tune(1.0, 48_000), 60)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 48_000, 2, "PCM_16") as file:
        for _ in range(5):
            file.write(np.stack([minute, 0.5 * minute], 1))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from sashimi_lib.data.clips import probe_files\n"
        "from sashimi_lib.data.corpora import FOLDER\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "files, _ = probe_files([Path(sys.argv[1])])\n"
        "before = peak()\n"
        "codes = FOLDER.codes_of(files)\n"
        "print(len(codes[0]), peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "long.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    samples, mebibytes = map(float, done.stdout.split())
    assert samples == 5 * 60 * 16_000
    assert (
        mebibytes < 120
    )  # the waveform takes 18; the recording in float32 110, and twice that to mix it down
