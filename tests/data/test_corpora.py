"""Corpora from small archives in the published layout, intact and damaged; downloads from a local server."""

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sashimi_lib.audio import read
from sashimi_lib.audio.quantizers import CoarseFine, Linear, MuLaw
from sashimi_lib.data.corpora import (
    BEETHOVEN,
    CORPORA,
    FOLDER,
    FSDD,
    LJSPEECH,
    SC09,
    YOUTUBEMIX,
    Archive,
    Codes,
    Corpus,
    normalize_min_max,
)
from sashimi_lib.data.corpora.archive import download, unpack
from sashimi_lib.data.corpora.layouts import DIGITS, contiguous_split
from sashimi_lib.data.split import PARTS
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.recipes import RECIPES, Recipe
from sashimi_lib.training.trainer import train
from tests.audio_files import no_warnings, wav


def pack(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    """Write a zip or tar file, depending on its suffix; ``links`` are members that link to /etc/passwd."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
            for name in links:
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, "/etc/passwd")
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


def sc09_members() -> dict[str, bytes]:
    takes = {f"./{word}/{id_}_nohash_0.wav": wav(seed=n) for n, word in enumerate(DIGITS) for id_ in "abcd"}
    return {
        **takes,
        "./happy/a_nohash_0.wav": wav(),
        "./_background_noise_/white_noise.wav": wav(),
        "./validation_list.txt": b"zero/a_nohash_0.wav\nhappy/a_nohash_0.wav\none/b_nohash_0.wav\n",
        "./testing_list.txt": b"two/c_nohash_0.wav\n",
        "./LICENSE": b"CC BY",
    }


def miniatures() -> list[tuple[Corpus, dict[str, bytes], tuple[int, int, int]]]:
    """Return each corpus with files in its published layout, and the number of files in each part."""
    top = "free-spoken-digit-dataset-1.0.9"
    digits = {f"{top}/recordings/{d}_theo_{take}.wav": wav(rate=8_000) for d in (0, 7) for take in range(10)}
    books = [f"LJ00{chapter}-000{n}" for chapter in (1, 2, 3, 4, 5) for n in (1, 2)]
    return [
        (SC09, sc09_members(), (37, 2, 1)),
        (BEETHOVEN, {f"beethoven/{n}.wav": wav() for n in range(50)}, (44, 3, 3)),
        (YOUTUBEMIX, {f"youtubemix/out{n:03}.wav": wav() for n in range(50)}, (44, 3, 3)),
        (FSDD, {**digits, f"{top}/README.md": b"digits"}, (4, 6, 10)),
        (
            LJSPEECH,
            {
                **{f"LJSpeech-1.1/wavs/{b}.wav": wav(rate=22_050) for b in books},
                "LJSpeech-1.1/metadata.csv": b"",
            },
            (4, 2, 4),
        ),
    ]


def small(corpus: Corpus, n_recordings: int | None = None, sha256: str | None = None) -> Corpus:
    """Return the corpus with another checksum and number of recordings."""
    assert corpus.archive is not None
    return replace(corpus, n_recordings=n_recordings, archive=replace(corpus.archive, sha256=sha256))


def put(folder: Path, corpus: Corpus, members: dict[str, bytes]) -> Corpus:
    """Write an archive of these members into the folder, and return the corpus with its checksum."""
    assert corpus.archive is not None
    folder.mkdir(exist_ok=True)
    data = pack(folder / corpus.archive.filename, members).read_bytes()
    return small(corpus, sha256=hashlib.sha256(data).hexdigest())


# --- every corpus, from archive to codes


@pytest.mark.parametrize(("corpus", "members", "counts"), miniatures(), ids=lambda x: getattr(x, "name", ""))
def test_every_corpus_is_unpacked_split_and_read(
    tmp_path: Path, corpus: Corpus, members: dict[str, bytes], counts: tuple[int, int, int]
) -> None:
    corpus = replace(put(tmp_path, corpus, members), n_recordings=sum(counts))
    with no_warnings():
        assert corpus.fetch(tmp_path, progress=False) == tmp_path / corpus.name
        parts = [corpus.codes(tmp_path, part) for part in PARTS]
        assert corpus.fetch(tmp_path, progress=False) == tmp_path / corpus.name  # already there
    assert tuple(map(len, parts)) == counts
    assert all(
        codes[n].dtype == torch.int64 and len(codes[n]) == 400 for codes in parts for n in range(len(codes))
    )
    paths = [path for part in corpus.paths(tmp_path).values() for path in part]
    assert len(set(paths)) == sum(counts)


def test_only_the_ten_words_of_speech_commands_are_unpacked(tmp_path: Path) -> None:
    put(tmp_path, SC09, sc09_members()).fetch(tmp_path, progress=False)
    names = {path.name for path in (tmp_path / "sc09").iterdir()}
    assert names == {*DIGITS, "validation_list.txt", "testing_list.txt", "LICENSE"}


def test_the_list_files_define_validation_and_test_parts(tmp_path: Path) -> None:
    corpus = put(tmp_path, SC09, sc09_members())
    corpus.fetch(tmp_path, progress=False)
    paths = corpus.paths(tmp_path)
    assert [f"{path.parent.name}/{path.stem[0]}" for path in paths["valid"]] == ["zero/a", "one/b"]
    assert [f"{path.parent.name}/{path.stem[0]}" for path in paths["test"]] == ["two/c"]


@pytest.mark.parametrize(("names", "counts"), [("{}.wav", (3808, 260, 260)), ("out{:03}.wav", (212, 14, 15))])
def test_the_papers_split_of_numbered_files(tmp_path: Path, names: str, counts: tuple[int, int, int]) -> None:
    for number in range(sum(counts)):
        (tmp_path / names.format(number)).touch()
    (tmp_path / "._0.wav").touch()  # metadata of macOS
    split = contiguous_split(tmp_path)
    assert tuple(len(split[part]) for part in PARTS) == counts
    numbers = [int(re.sub(r"\D", "", path.stem)) for part in PARTS for path in split[part]]
    assert numbers == list(range(sum(counts)))


def test_fsdd_is_split_by_take_and_ljspeech_by_chapter(tmp_path: Path) -> None:
    for corpus, members, _ in miniatures()[3:]:
        put(tmp_path, corpus, members).fetch(tmp_path, progress=False)
    with pytest.warns(UserWarning, match="must have [0-9,]+ recordings"):
        digits, speech = FSDD.paths(tmp_path), LJSPEECH.paths(tmp_path)
    assert {int(path.stem[-1]) for path in digits["test"]} == {0, 1, 2, 3, 4}
    assert {int(path.stem[-1]) for path in digits["valid"]} == {5, 6, 7}
    assert {path.name[:5] for path in speech["test"]} == {"LJ001", "LJ002"}
    assert {path.name[:5] for path in speech["valid"]} == {"LJ003"}


def test_digits_are_labeled_and_corpora_without_classes_are_refused(
    tmp_path: Path,
) -> None:
    for corpus, members, _ in miniatures():
        local = put(tmp_path, corpus, members)
        local.fetch(tmp_path, progress=False)
        if corpus not in (SC09, FSDD):
            with pytest.raises(
                ValueError, match=f"{corpus.name} must be a corpus with classes, but has none"
            ):
                local.labeled(tmp_path, "train")
            continue
        pairs = local.labeled(tmp_path, "train")
        words = [
            path.parent.name if corpus is SC09 else path.name[0] for path in local.paths(tmp_path)["train"]
        ]
        names = DIGITS if corpus is SC09 else "0123456789"
        assert [names[label] for _, label in pairs] == words
        for waveform, (segment, _) in zip(local.waveforms(tmp_path, "train"), pairs, strict=True):
            assert torch.equal(waveform, segment)


def test_a_corpus_that_was_unpacked_by_hand_is_found(tmp_path: Path) -> None:
    archive = pack(tmp_path / "LJSpeech-1.1.tar.bz2", miniatures()[4][1])
    unpack(archive, tmp_path / "elsewhere", progress=False)
    assert LJSPEECH.root(tmp_path / "elsewhere" / "LJSpeech-1.1") == tmp_path / "elsewhere" / "LJSpeech-1.1"
    with pytest.raises(FileNotFoundError):
        LJSPEECH.root(tmp_path)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_every_corpus_has_a_license_and_a_complete_checksum_or_none(corpus: Corpus) -> None:
    assert corpus.description
    assert corpus.license
    if corpus.archive is None:
        assert corpus is FOLDER
        return
    assert corpus.homepage.startswith("https://")
    assert corpus.archive.url.startswith("https://")
    assert corpus.archive.sha256 is None or re.fullmatch("[0-9a-f]{64}", corpus.archive.sha256)
    assert corpus.n_recordings


def test_recipes_and_corpora_agree() -> None:
    seen = set()
    for name, recipe in RECIPES.items():
        corpus = CORPORA.get(name.split("_")[0])
        if corpus is not None:
            seen.add(corpus.name)
            assert recipe.sample_rate == corpus.sample_rate
            if isinstance(recipe, Recipe):
                assert (recipe.quantizer, recipe.length) == (corpus.quantizer, corpus.length)
    assert seen == {"beethoven", "youtubemix", "sc09", "ljspeech"}


# --- preprocessing


def published_codes(x: torch.Tensor, linear: bool) -> torch.Tensor:
    """The formulas of the published code, in float32 as there."""
    low, high = x.min(), x.max()
    if linear:
        y = (x - low) / (high - low + 1e-6)
    else:
        x = -1 + 2 * (x - low) / (high - low + 1e-6)
        y = (torch.sign(x) * torch.log1p(255 * torch.abs(x + 1e-8)) / np.log1p(255) + 1) / 2
    return (y * (256 - 0.01) + 0.01 / 2).long()


@pytest.mark.parametrize("corpus", [BEETHOVEN, YOUTUBEMIX], ids=lambda corpus: corpus.name)
def test_codes_equal_those_of_the_published_code(tmp_path: Path, corpus: Corpus) -> None:
    linear = corpus is BEETHOVEN
    name = "{}.wav" if linear else "out{:03}.wav"
    for number in range(20):
        (tmp_path / name.format(number)).write_bytes(wav(20_000, seed=number))
    corpus = replace(corpus, n_recordings=None, length=6_000)
    codes = corpus.codes(tmp_path, "test")
    assert [len(codes[n]) for n in range(4)] == [6_000, 6_000, 6_000, 2_000]
    recording, _ = read(tmp_path / name.format(18))
    for number, segment in enumerate(recording.split(6_000)):
        theirs = published_codes(segment, linear)
        differ = codes[number] != theirs
        assert differ.float().mean() < 1e-3  # they round in float32
        assert (codes[number] - theirs).abs().max() <= 1
        assert codes[number].min() == 0
        assert codes[number].max() == 255


def test_min_max_normalization_is_optional_and_changes_the_codes(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.wav").write_bytes(wav(seed=number))
    corpus = replace(BEETHOVEN, n_recordings=None)
    plain = replace(corpus, min_max_normalized=False).codes(tmp_path, "test")[0]
    assert torch.equal(plain, Linear().encode(read(tmp_path / "18.wav")[0]))
    assert (plain != corpus.codes(tmp_path, "test")[0]).float().mean() > 0.5
    assert torch.equal(corpus.waveforms(tmp_path, "test")[0], read(tmp_path / "18.wav")[0])


@pytest.mark.parametrize("low", [-0.8, 0.1])
def test_min_max_normalization_fills_the_range_and_maps_silence_to_the_lowest_code(low: float) -> None:
    x = normalize_min_max(torch.tensor([low, low + 0.3, low + 0.1]))
    assert x.min() == -1
    assert 0.99 < x.max() < 1
    assert torch.equal(normalize_min_max(torch.full((5,), low)), torch.full((5,), -1.0))
    with pytest.raises(ValueError, match="finite"):
        normalize_min_max(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize("quantizer", [MuLaw(), CoarseFine(), Linear(65_536)])
def test_codes_are_stored_compactly_and_returned_unchanged(quantizer: MuLaw | CoarseFine | Linear) -> None:
    waveform = torch.linspace(-1, 1, 300)
    codes = Codes([quantizer.encode(waveform)], quantizer.levels)
    assert torch.equal(codes[0], quantizer.encode(waveform))
    assert codes.sequences[0].element_size() == (1 if quantizer.levels == 256 else 4)


def test_training_accepts_codes(tmp_path: Path) -> None:
    corpus = put(tmp_path, SC09, sc09_members())
    corpus.fetch(tmp_path, progress=False)
    model = AudioLM(corpus.quantizer, SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    config = TrainingConfig(steps=2, batch_size=2, valid_every=1)
    parts = corpus.codes(tmp_path, "train"), corpus.codes(tmp_path, "valid")
    history = train(model, parts[0], config, valid=parts[1], progress=False)
    assert len(history.valid) == 2


# --- damaged recordings, and formats that differ from the published one


def test_unusable_recordings_are_named_and_do_not_move_others(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.wav").write_bytes(wav())
    split = BEETHOVEN.split(tmp_path)
    (tmp_path / "3.wav").write_bytes(b"")
    (tmp_path / "4.wav").write_bytes(wav(0))
    (tmp_path / "5.wav").write_text("a text")
    (tmp_path / "6.wav").write_bytes(wav()[:30])
    corpus = replace(BEETHOVEN, n_recordings=None)
    with pytest.warns(UserWarning, match="skipped 4 of 44 files") as caught:
        files = corpus.files(tmp_path, "train")
    assert all(f"{number}.wav" in str(caught[0].message) for number in (3, 4, 5, 6))
    assert len(files) == 40
    with no_warnings():
        assert [file.path for file in corpus.files(tmp_path, "test")] == split["test"]
    for path in split["valid"]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must have usable audio for valid, got none: .*44\.wav"):
        corpus.files(tmp_path, "valid")


def test_recordings_in_another_format_than_published_are_converted_and_named(tmp_path: Path) -> None:
    odd = {
        "0.wav": (wav(subtype="PCM_U8"), "PCM_U8", 400),
        "1.wav": (wav(channels=2), "2 channels", 400),
        "2.wav": (wav(rate=44_100), "44100 Hz", 146),
        "3.wav": (wav(1_000)[:-1_000], "truncated", 500),
    }
    for number in range(50):
        (tmp_path / f"{number}.wav").write_bytes(wav())
    for name, (data, _, _) in odd.items():
        (tmp_path / name).write_bytes(data)
    with pytest.warns(UserWarning, match="another format than published") as caught:
        codes = replace(BEETHOVEN, n_recordings=None).codes(tmp_path, "train")
    message = str(caught[0].message)
    assert message.count(".wav") == len(odd)
    for number, (name, (_, word, length)) in enumerate(odd.items()):
        assert re.search(rf"{name} \([^)]*{word}", message)
        assert len(codes[number]) == length


@pytest.mark.parametrize("missing", ["validation_list.txt", "testing_list.txt", "seven"])
def test_a_missing_list_or_word_is_refused(tmp_path: Path, missing: str) -> None:
    members = {name: data for name, data in sc09_members().items() if name.split("/")[1] != missing}
    corpus = put(tmp_path, SC09, members)
    corpus.fetch(tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing"):
        corpus.codes(tmp_path, "train")


def test_listed_files_that_are_missing_are_named(tmp_path: Path) -> None:
    members = sc09_members()
    del members["./two/c_nohash_0.wav"]
    corpus = put(tmp_path, SC09, members)
    corpus.fetch(tmp_path, progress=False)
    with pytest.warns(UserWarning, match=r"listed files are missing: two/c_nohash_0\.wav$"):
        corpus.paths(tmp_path)


def test_an_unexpected_number_of_recordings_causes_a_warning(tmp_path: Path) -> None:
    put(tmp_path, SC09, sc09_members()).fetch(tmp_path, progress=False)
    with pytest.warns(UserWarning, match="must have 38,908 recordings, got 40: another version"):
        SC09.paths(tmp_path)


def test_a_misnamed_digit_is_named(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for name in ("7_theo_0.wav", "7_theo_8.wav", "seven.wav"):
        (tmp_path / "recordings" / name).write_bytes(wav(rate=8_000))
    with pytest.warns(UserWarning, match=r"files not named DIGIT_SPEAKER_TAKE\.wav: seven\.wav"):
        paths = replace(FSDD, n_recordings=None).paths(tmp_path)
    assert [len(paths[part]) for part in PARTS] == [1, 0, 1]
    with pytest.raises(ValueError, match="part must be one of train, valid, test, got 'dev'"):
        FSDD.files(tmp_path, "dev")


# --- archives downloaded by hand


@pytest.mark.parametrize("corpus", [BEETHOVEN, YOUTUBEMIX], ids=lambda corpus: corpus.name)
def test_corpora_behind_a_login_are_reported_with_instructions(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(FileNotFoundError, match="by hand") as caught:
        corpus.fetch(tmp_path, progress=False)
    assert corpus.homepage in str(caught.value)
    assert str(tmp_path / f"{corpus.name}.zip") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("corpus", [c for c in CORPORA.values() if c.archive], ids=lambda corpus: corpus.name)
def test_a_missing_corpus_is_reported_with_the_path_to_put_it(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(FileNotFoundError, match=f"{corpus.name} is not in") as caught:
        corpus.codes(tmp_path, "train")
    assert corpus.archive is not None
    assert corpus.archive.url in str(caught.value)
    assert str(tmp_path / corpus.archive.filename) in str(caught.value)


def test_a_file_with_another_hash_is_refused_and_kept(tmp_path: Path) -> None:
    path = pack(tmp_path / "LJSpeech-1.1.tar.bz2", {"LJSpeech-1.1/wavs/LJ001-0001.wav": wav()})
    with pytest.raises(ValueError, match=r"LJSpeech-1.1.tar.bz2 is damaged, truncated or another version"):
        LJSPEECH.fetch(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.bz2"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7, 0.99])
def test_truncated_archives_are_named_and_leave_nothing(tmp_path: Path, suffix: str, fraction: float) -> None:
    path = pack(tmp_path / f"a.{suffix}", {f"{n}.wav": wav(2_000, seed=n) for n in range(30)})
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"a\.{suffix} (is damaged|must be a zip or tar file)"):
        unpack(path, tmp_path / "home", progress=False)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    "name", ["../evil.wav", "a/../../evil.wav", "/tmp/evil.wav", "a\\..\\..\\evil.wav", "."]
)
def test_nothing_is_written_outside_the_folder(tmp_path: Path, suffix: str, name: str) -> None:
    path = pack(tmp_path / f"a.{suffix}", {"good.wav": wav(), name: b"evil"})
    with pytest.raises(ValueError, match="outside the target folder") as caught:
        unpack(path, tmp_path / "subfolder" / "home", progress=False)
    assert f"{path}: {name}" in str(caught.value)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("good.wav"))
    assert not Path("/tmp/evil.wav").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_links_are_refused(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a.{suffix}", {"good.wav": wav()}, links=("zero",))
    with pytest.raises(ValueError, match="zero must be a regular file, got a link"):
        unpack(path, tmp_path / "home", progress=False)
    assert list(tmp_path.iterdir()) == [path]


def test_a_web_page_saved_as_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "beethoven.zip").write_text("<html>log in</html>")
    with pytest.raises(ValueError, match="web page"):
        BEETHOVEN.fetch(tmp_path, progress=False)
    pack(tmp_path / "speech_commands_v0.02.tar.gz", {"happy/a.wav": wav()})
    with pytest.raises(ValueError, match="contains none of the expected files: zero"):
        small(SC09).fetch(tmp_path, progress=False)


def test_an_archive_with_a_password_is_named(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", {"good.wav": wav()}).read_bytes())
    data[6] |= 1  # the flag in front of the member, and in the table at the end
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip is damaged.*password"):
        unpack(tmp_path / "a.zip", tmp_path / "home", progress=False)


def test_a_full_disk_is_not_reported_as_a_damaged_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "a.zip", {"good.wav": wav()})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(path, tmp_path / "home", progress=False)
    assert list(tmp_path.iterdir()) == [path]


@given(data=st.binary(max_size=300), suffix=st.sampled_from(["zip", "tar.gz"]))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / f"a.{suffix}").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.{suffix}"):
        unpack(folder / f"a.{suffix}", folder / "home", progress=False)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_archive_larger_than_max_bytes_is_refused(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a.{suffix}", {f"{n}.wav": bytes(10**6) for n in range(3)})
    unpack(path, tmp_path / "home", progress=False, max_bytes=3 * 10**6)
    assert len(list((tmp_path / "home").iterdir())) == 3
    with pytest.raises(ValueError, match=rf"a\.{suffix} must unpack to at most 2,999,999 bytes"):
        unpack(path, tmp_path / "other", progress=False, max_bytes=3 * 10**6 - 1)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "home"])


@pytest.mark.parametrize("corpus", [BEETHOVEN, YOUTUBEMIX], ids=lambda corpus: corpus.name)
def test_archives_without_a_checksum_have_a_size_limit(tmp_path: Path, corpus: Corpus) -> None:
    assert corpus.archive is not None
    assert 10**9 <= (corpus.archive.max_bytes or 0) <= 2 * 10**9  # their unpacked size, with a margin
    bounded = replace(corpus, archive=replace(corpus.archive, max_bytes=1_000))
    pack(tmp_path / corpus.archive.filename, {"0.wav": bytes(10_000)})
    with pytest.raises(ValueError, match="must unpack to at most 1,000 bytes"):
        bounded.fetch(tmp_path, progress=False)


# --- downloads


class Server:
    """Serves ``content``, with range requests if ``ranges``, and disconnects after ``max_bytes`` bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.ranges, self.max_bytes = content, True, len(content)
        self.requested: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                begin = self.headers.get("Range")
                outer.requested.append(begin)
                start = int(begin[6:-1]) if begin and outer.ranges else 0
                if start and start >= len(outer.content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(outer.content) - start))
                self.end_headers()
                self.wfile.write(outer.content[start : start + outer.max_bytes])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/a.zip"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = pack(tmp_path / "made.zip", {f"{n}.wav": wav(2_000, seed=n) for n in range(50)})
    server = Server(made.read_bytes())
    made.unlink()
    yield server
    server.http.shutdown()
    server.http.server_close()


def served(server: Server) -> Corpus:
    sha256 = hashlib.sha256(server.content).hexdigest()
    return replace(BEETHOVEN, archive=Archive(server.url, "a.zip", "little", sha256), n_recordings=50)


def test_a_corpus_is_downloaded_once(
    tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = served(server)
    corpus.fetch(tmp_path)
    assert "100%" in capfd.readouterr().err  # of the progress bar
    assert (tmp_path / "a.zip").read_bytes() == server.content
    assert len(corpus.codes(tmp_path, "train")) == 44
    (tmp_path / "beethoven").rename(tmp_path / "away")
    corpus.fetch(tmp_path, progress=False)
    assert server.requested == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "away", "beethoven"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_resumed(tmp_path: Path, server: Server, ranges: bool) -> None:
    corpus, server.max_bytes, server.ranges = served(server), 150_000, ranges
    with pytest.raises(ConnectionError, match=r"could not be downloaded.*try again") as caught:
        corpus.fetch(tmp_path, progress=False)
    assert str(tmp_path / "a.zip") in str(caught.value)
    assert not (tmp_path / "a.zip").exists()
    (part,) = tmp_path.glob("*.part")
    offset = part.stat().st_size
    assert 0 < offset <= 150_000 < len(server.content)
    server.max_bytes = len(server.content)
    corpus.fetch(tmp_path, progress=False)
    assert server.requested == [None, f"bytes={offset}-"]
    assert (tmp_path / "a.zip").read_bytes() == server.content
    assert not list(tmp_path.glob("*.part"))


def test_a_connection_that_ends_early_without_an_error_is_resumed(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    iter_content = requests.Response.iter_content

    def silent(self: requests.Response, size: int) -> Iterator[bytes]:  # as with urllib3 before 2
        with suppress(requests.RequestException):
            yield from iter_content(self, size)

    monkeypatch.setattr(requests.Response, "iter_content", silent)
    folder = tmp_path / "data"
    folder.mkdir()
    server.max_bytes = 150_000
    archive = served(server).archive
    assert archive is not None
    with pytest.raises(
        ConnectionError, match=rf"received [\d,]+ of {len(server.content):,} bytes.*try again"
    ):
        download(archive, folder, progress=False)
    (part,) = folder.iterdir()
    offset = part.stat().st_size
    assert part.read_bytes() == server.content[:offset]
    server.max_bytes = len(server.content)
    assert download(archive, folder, progress=False).read_bytes() == server.content
    assert server.requested == [None, f"bytes={offset}-"]
    assert download(archive, folder, progress=False) == folder / "a.zip"  # already there
    assert len(server.requested) == 2


def test_a_complete_partial_file_is_used(tmp_path: Path, server: Server) -> None:
    corpus = served(server)
    assert corpus.archive is not None
    (tmp_path / f"a.zip.{str(corpus.archive.sha256)[:8]}.part").write_bytes(server.content)
    corpus.fetch(tmp_path, progress=False)
    assert len(corpus.codes(tmp_path, "test")) == 3


def test_a_download_with_another_hash_is_deleted(tmp_path: Path, server: Server) -> None:
    corpus = served(server)
    server.content = server.content[:-1] + b"x"
    with pytest.raises(ValueError, match=r"a\.zip.*does not match"):
        corpus.fetch(tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_offline_the_error_names_the_file_and_where_to_put_it(tmp_path: Path, server: Server) -> None:
    corpus = served(server)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ConnectionError, match="Without a connection, copy the file") as caught:
        corpus.fetch(tmp_path, progress=False)
    assert server.url in str(caught.value)
    assert str(tmp_path / "a.zip") in str(caught.value)


def test_a_missing_pooch_is_reported_with_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "sashimi_lib\[data\]"'):
        FSDD.fetch(tmp_path, progress=False)
