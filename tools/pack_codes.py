"""Pack the corpora that models are trained on into one small file, as codes: for a machine without a network.

    python tools/pack_codes.py runs/data/codes.safetensors \
        --piano runs/data/piano_bach --tunes runs/data/tunes --minutes-of-tunes 30

Each folder holds ``train``, ``valid`` and ``test``, whole recordings in each. Of each set as many minutes are
taken as is asked for, in whole recordings, in the order of their names, the same share of each of the three.

What is in the file, of every recording: its file's name, and its codes (8-bit mu-law, at the set's rate).
They are kept without loss: bzip2 of the differences between neighbouring codes, modulo 256, takes about 4
bits a sample for a piano at 16 kHz and 5 for struck bars at 8 kHz. And of every set: what was recorded, whom
to thank, and the licence. Nothing in the file is executed. `tools/gpu.py` trains from it.
"""

import argparse
import bz2
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]

from corpus import Corpus, recordings
from train_pretrained import TASKS

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.data.clips import find_audio
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors

KIND = "codes 1"
SPLITS = ("train", "valid", "test")
LIMIT = 20_000_000  # bytes of a file
SETS = ("piano", "tunes")  # each has the rate and the credit of the model that is trained on it
QUANTIZER = MuLaw()


@dataclass(frozen=True, eq=False)
class Packed:
    """A set of recordings as codes, by split and file name: ``sample_rate`` in Hz, what they are (``data``),
    whom to thank and under which licence (``credit``)."""

    sample_rate: int
    data: str
    credit: str
    recordings: Mapping[str, Mapping[str, Int[Tensor, " length"]]]

    @property
    def corpus(self) -> Corpus:
        """The codes alone, as benchmarks and tools take them."""
        return {split: list(files.values()) for split, files in self.recordings.items()}

    def minutes(self, split: str) -> float:
        """Of one split."""
        return sum(map(len, self.corpus[split])) / self.sample_rate / 60


def pack(path: str | Path, sets: Mapping[str, Packed], limit: int = LIMIT) -> int:
    """Write sets of recordings, and return how many bytes the codes take.

    Raises ValueError for more than ``limit`` bytes, and for codes that are not of 8 bits.
    """
    tensors = {
        f"{name}/{split}/{file}": compressed(codes)
        for name, packed in sets.items()
        for split, files in packed.recordings.items()
        for file, codes in files.items()
    }
    size = sum(map(len, tensors.values()))
    if size > limit:
        raise ValueError(
            f"the packed codes must take at most {limit:,} bytes, got {size:,}: give fewer minutes"
        )
    header = {
        name: {
            "sample_rate": packed.sample_rate,
            "data": packed.data,
            "credit": packed.credit,
            "samples": {
                split: {file: len(codes) for file, codes in files.items()}
                for split, files in packed.recordings.items()
            },
        }
        for name, packed in sets.items()
    }
    write_tensors(path, KIND, json.dumps({"levels": QUANTIZER.levels, "sets": header}), tensors)
    return size


def unpack(path: str | Path) -> dict[str, Packed]:
    """What `pack` wrote: the same codes, as int64.

    Raises ValueError, naming the file, for one that is damaged or of another kind.
    """
    try:
        header, tensors = read_tensors(path, KIND)
        return {
            name: Packed(
                entry["sample_rate"],
                entry["data"],
                entry["credit"],
                {
                    split: {file: restored(tensors[f"{name}/{split}/{file}"], n) for file, n in files.items()}
                    for split, files in entry["samples"].items()
                },
            )
            for name, entry in header["sets"].items()
        }
    except FileNotFoundError:
        raise
    except Exception as error:  # a foreign file may fail anywhere, and a reader wants to know which it was
        raise ValueError(f"path must be a file of packed codes, got {path}: {error}") from error


def compressed(codes: Int[Tensor, " length"]) -> UInt8[Tensor, " bytes"]:
    """bzip2 of the differences. Raises ValueError for codes that are not of 8 bits.

    >>> codes = torch.arange(100_000) % 256
    >>> len(compressed(codes)) < 1000, torch.equal(restored(compressed(codes), 100_000), codes)
    (True, True)
    """
    QUANTIZER.check(codes[None])
    differences = np.diff(codes.numpy().astype(np.uint8), prepend=np.uint8(0))  # modulo 256, as bytes wrap
    return torch.frombuffer(bytearray(bz2.compress(differences.tobytes())), dtype=torch.uint8)


def restored(packed: UInt8[Tensor, " bytes"], length: int) -> Int[Tensor, " length"]:
    """What `compressed` made smaller. Raises ValueError where there are not so many codes in it."""
    differences = np.frombuffer(bz2.decompress(packed.numpy().tobytes()), np.uint8)
    if len(differences) != length:
        raise ValueError(f"a recording must have {length} codes, got {len(differences)}")
    return torch.from_numpy(np.cumsum(differences, dtype=np.uint8).astype(np.int64))


def read_set(name: str, folder: Path, minutes: float) -> Packed:
    """The recordings of a folder's three splits, at most so many minutes of them."""
    task = TASKS[name]
    every = {
        split: dict(
            zip(
                (file.path.name for file in find_audio(folder / split)),
                recordings(folder / split, task.sample_rate, QUANTIZER),
                strict=True,
            )
        )
        for split in SPLITS
    }
    samples = sum(len(codes) for files in every.values() for codes in files.values())
    share = min(1.0, minutes * 60 * task.sample_rate / samples)
    return Packed(
        task.sample_rate, task.data, task.credit, {split: first(every[split], share) for split in SPLITS}
    )


def first(files: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The first recordings, up to a share of all their samples: at least one.

    >>> clips = {"a": torch.zeros(10), "b": torch.zeros(10), "c": torch.zeros(20)}
    >>> list(first(clips, 0.6)), list(first(clips, 0.1)), list(first(clips, 1.0))
    (['a', 'b'], ['a'], ['a', 'b', 'c'])
    """
    taken: dict[str, Tensor] = {}
    room = share * sum(map(len, files.values()))
    for file, codes in files.items():
        if taken and room < len(codes):
            break
        taken[file] = codes
        room -= len(codes)
    return taken


def shipped() -> dict[str, Packed]:
    """What can be had without any file: the piano that ships with the library, too short to learn much from.
    The last 16 of its 80 seconds are halved into ``valid`` and ``test``."""
    clip = bundled.piano()
    valid, test = clip.test.chunk(2)
    parts = {"train": clip.train, "valid": valid, "test": test}
    codes = {split: {"piano.flac": QUANTIZER.encode(part)} for split, part in parts.items()}
    return {"piano": Packed(clip.sample_rate, f"{clip.title}: the clip that ships", clip.credit, codes)}


def main() -> None:
    """Read, pack, and tell what is in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
        parser.add_argument(f"--minutes-of-{name}", type=float, default=float("inf"), metavar="MINUTES")
    options = vars(parser.parse_args())
    given = [name for name in SETS if options[name]]
    if not given:
        parser.error("give at least one folder: " + " or ".join(f"--{name}" for name in SETS))
    try:
        sets = {name: read_set(name, options[name], options[f"minutes_of_{name}"]) for name in given}
        size = pack(options["out"], sets)
    except ValueError as error:
        parser.error(str(error))
    for name, packed in sets.items():
        print(name, *(f"{split} {packed.minutes(split):.1f} min" for split in SPLITS), sep=", ")
    print(f"{size:,} bytes in {options['out']}")


if __name__ == "__main__":
    main()
