"""Pack training corpora into one small file of codes, for a machine without a network.

    python -m tools.pack_codes runs/data/codes.safetensors \\
        --piano runs/data/piano_bach --tunes runs/data/tunes --minutes-of-tunes 30

Each folder holds ``train``, ``valid`` and ``test``, with whole recordings. With a limit of minutes, whole
recordings are taken in the order of their names, the same share of each split.

The file contains, for every recording, its file name and its codes (8-bit mu-law at the sample rate of the
set), compressed without loss: bzip2 of the differences between neighbouring codes, modulo 256, takes about 4
bits a sample for a piano at 16 kHz and 5 for a vibraphone at 8 kHz. And for every set a description, authors
and license. Nothing in the file is executed. `tools.gpu` trains from it.
"""

import argparse
import bz2
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from benchmarks.lib.corpus import CodesBySplit, read_codes
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.data.split import PARTS
from sashimi_lib.storage.tensor_file import read_tensors, write_tensors
from tools.train_pretrained import TASKS

KIND = "codes 1"
LIMIT = 20_000_000  # bytes of a file
SETS = ("piano", "tunes")  # each has the sample rate and credit of the task of that name
QUANTIZER = MuLaw()


@dataclass(frozen=True, eq=False)
class Packed:
    """A set of recordings as codes, by split and file name, with ``sample_rate`` in Hz, a description
    (``data``), and authors and license (``credit``)."""

    sample_rate: int
    data: str
    credit: str
    recordings: Mapping[str, Mapping[str, Int[Tensor, " length"]]]

    @property
    def corpus(self) -> CodesBySplit:
        """The codes by split, without file names."""
        return {split: list(files.values()) for split, files in self.recordings.items()}

    def minutes(self, split: str) -> float:
        """Minutes of audio in one split."""
        return sum(map(len, self.corpus[split])) / self.sample_rate / 60


def pack(path: str | Path, sets: Mapping[str, Packed], limit: int = LIMIT) -> int:
    """Write sets of recordings to a file; returns the compressed size of the codes in bytes.

    ValueError if that exceeds ``limit``, and for codes that do not have 8 bits.
    """
    tensors = {
        f"{name}/{split}/{file}": compress(codes)
        for name, packed in sets.items()
        for split, files in packed.recordings.items()
        for file, codes in files.items()
    }
    size = sum(map(len, tensors.values()))
    if size > limit:
        raise ValueError(
            f"the packed codes must take at most {limit:,} bytes, got {size:,}: use fewer minutes"
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
    """Read a file that `pack` wrote; codes are int64.

    ValueError, naming the file, if it is damaged or of another kind.
    """
    try:
        header, tensors = read_tensors(path, KIND)
        return {
            name: Packed(
                entry["sample_rate"],
                entry["data"],
                entry["credit"],
                {
                    split: {
                        file: decompress(tensors[f"{name}/{split}/{file}"], n) for file, n in files.items()
                    }
                    for split, files in entry["samples"].items()
                },
            )
            for name, entry in header["sets"].items()
        }
    except FileNotFoundError:
        raise
    except Exception as error:  # another kind of file may fail anywhere
        raise ValueError(f"path must be a file of packed codes, got {path}: {error}") from error


def compress(codes: Int[Tensor, " length"]) -> UInt8[Tensor, " bytes"]:
    """bzip2 of the differences of neighbouring codes. ValueError for codes that do not have 8 bits.

    >>> codes = torch.arange(100_000) % 256
    >>> len(compress(codes)) < 1000, torch.equal(decompress(compress(codes), 100_000), codes)
    (True, True)
    """
    QUANTIZER.check(codes[None])
    differences = np.diff(codes.numpy().astype(np.uint8), prepend=np.uint8(0))  # modulo 256, as bytes wrap
    return torch.frombuffer(bytearray(bz2.compress(differences.tobytes())), dtype=torch.uint8)


def decompress(packed: UInt8[Tensor, " bytes"], length: int) -> Int[Tensor, " length"]:
    """The inverse of `compress`. ValueError if there are not ``length`` codes."""
    differences = np.frombuffer(bz2.decompress(packed.numpy().tobytes()), np.uint8)
    if len(differences) != length:
        raise ValueError(f"a recording must have {length} codes, got {len(differences)}")
    return torch.from_numpy(np.cumsum(differences, dtype=np.uint8).astype(np.int64))


def read_set(name: str, folder: Path, minutes: float) -> Packed:
    """The recordings of a folder's three splits, at most ``minutes`` in all."""
    task = TASKS[name]
    available = {split: codes_by_name(folder / split, task.sample_rate) for split in PARTS}
    samples = sum(len(codes) for files in available.values() for codes in files.values())
    share = min(1.0, minutes * 60 * task.sample_rate / samples)
    return Packed(
        task.sample_rate, task.data, task.credit, {split: first(available[split], share) for split in PARTS}
    )


def codes_by_name(folder: Path, sample_rate: int) -> dict[str, Tensor]:
    """Codes of a folder's recordings by file name."""
    codes = read_codes(folder, sample_rate, QUANTIZER)
    return {path.name: codes[number] for number, path in enumerate(codes.recordings or ())}


def first(files: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The first recordings, up to a share of all samples; at least one.

    >>> clips = {"a": torch.zeros(10), "b": torch.zeros(10), "c": torch.zeros(20)}
    >>> list(first(clips, 0.6)), list(first(clips, 0.1)), list(first(clips, 1.0))
    (['a', 'b'], ['a'], ['a', 'b', 'c'])
    """
    selected: dict[str, Tensor] = {}
    remaining = share * sum(map(len, files.values()))
    for file, codes in files.items():
        if selected and remaining < len(codes):
            break
        selected[file] = codes
        remaining -= len(codes)
    return selected


def bundled_set() -> dict[str, Packed]:
    """The bundled piano as a set, for use without a file. The last 16 of its 80 seconds are split into halves
    for ``valid`` and ``test``."""
    clip = bundled.piano()
    valid, test = clip.test.chunk(2)
    parts = {"train": clip.train, "valid": valid, "test": test}
    codes = {split: {"piano.flac": QUANTIZER.encode(part)} for split, part in parts.items()}
    return {"piano": Packed(clip.sample_rate, f"{clip.title}: the bundled clip", clip.credit, codes)}


def main() -> None:
    """Read, pack, and print what is in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write")
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"recordings of the set {name}")
        parser.add_argument(
            f"--minutes-of-{name}",
            type=float,
            default=float("inf"),
            metavar="MINUTES",
            help="at most (default: all)",
        )
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
        print(name, *(f"{split} {packed.minutes(split):.1f} min" for split in PARTS), sep=", ")
    print(f"{size:,} bytes in {options['out']}")


if __name__ == "__main__":
    main()
