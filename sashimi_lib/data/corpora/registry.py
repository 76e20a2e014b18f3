"""The corpora by name: three of the SaShiMi paper, two more, and any folder of recordings.

Split, quantizer and normalization (`Corpus.min_max_normalized`) of the paper's three corpora are those of
the published configurations. The paper does not use the other two; they are quantized with mu-law and not
normalized.

Checksums are published ones: of SC09 and LJSpeech in torchaudio, of FSDD in TensorFlow Datasets. There is
none for the authors' archives of Beethoven and YouTubeMix, which require a login.

Chapter: 10.
"""

from sashimi_lib.audio import Linear, MuLaw
from sashimi_lib.data.corpora.archive import Archive
from sashimi_lib.data.corpora.corpus import Corpus
from sashimi_lib.data.corpora.layouts import (
    DIGITS,
    chapter_split,
    contiguous_split,
    digit_of_folder,
    digit_of_name,
    fsdd_split,
    list_file_split,
    user_split,
)

GB = 10**9
SC09 = Corpus(
    name="sc09",
    description="the words zero to nine, at most a second each, thousands of speakers: Speech Commands "
    "version 0.02",
    homepage="https://huggingface.co/datasets/krandiash/sc09",
    license="CC BY 4.0",
    sample_rate=16_000,
    quantizer=MuLaw(),
    min_max_normalized=True,
    length=16_000,
    marker="zero/*.wav",
    split=list_file_split,
    # Google's archive, with 25 more words and a published hash. The authors' contains the same ten.
    archive=Archive(
        "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "speech_commands_v0.02.tar.gz",
        "2.4 GB",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        members=(*DIGITS, "validation_list.txt", "testing_list.txt", "LICENSE", "README.md"),
    ),
    label=digit_of_folder,
    n_recordings=38_908,  # 31,158 + 3,643 + 4,107; version 0.01 has fewer
)
BEETHOVEN = Corpus(
    name="beethoven",
    description="Beethoven's 32 piano sonatas, joined and cut into 4,328 clips of 8 seconds",
    homepage="https://huggingface.co/datasets/krandiash/beethoven",
    license="that of each recording, on archive.org: check before you redistribute any",
    sample_rate=16_000,
    quantizer=Linear(),
    min_max_normalized=True,
    length=128_000,
    marker="[0-9]*.wav",
    split=contiguous_split,  # 3,808, 260 and 260
    archive=Archive(
        "https://huggingface.co/datasets/krandiash/beethoven",
        "beethoven.zip",
        "1.1 GB unpacked",
        None,
        max_bytes=2 * GB,
    ),
    n_recordings=4_328,
)
YOUTUBEMIX = Corpus(
    name="youtubemix",
    description="four hours of piano, one video, cut into 241 clips of a minute. According to one report it "
    "repeats the same 45 minutes, so that the test part would be in the training part (not verified)",
    homepage="https://huggingface.co/datasets/krandiash/youtubemix",
    license="copyright of the uploader; for academic use only, according to the authors of the paper",
    sample_rate=16_000,
    quantizer=MuLaw(),
    min_max_normalized=True,
    length=131_072,
    marker="out[0-9]*.wav",
    split=contiguous_split,  # 212, 14 and 15
    archive=Archive(
        "https://huggingface.co/datasets/krandiash/youtubemix",
        "youtubemix.zip",
        "0.5 GB unpacked",
        None,
        max_bytes=GB,
    ),
    n_recordings=241,
)
FSDD = Corpus(
    name="fsdd",
    description="the Free Spoken Digit Dataset, version 1.0.9: five speakers, fifty recordings of each digit",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    license="CC BY-SA 4.0: credit Zohar Jackson and contributors, share adaptations alike",
    sample_rate=8_000,
    quantizer=MuLaw(),
    min_max_normalized=False,
    length=None,
    marker="recordings/*.wav",
    split=fsdd_split,
    archive=Archive(
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
        "free-spoken-digit-dataset-1.0.9.tar.gz",
        "12 MB",
        "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
    ),
    label=digit_of_name,
    n_recordings=2_500,
)
LJSPEECH = Corpus(
    name="ljspeech",
    description="LJSpeech 1.1: one reader, seven books, 24 hours, with transcripts",
    homepage="https://keithito.com/LJ-Speech-Dataset",
    license="public domain",
    sample_rate=22_050,
    quantizer=MuLaw(),
    min_max_normalized=False,
    length=None,
    marker="wavs/LJ*.wav",
    split=chapter_split,
    archive=Archive(
        "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
        "LJSpeech-1.1.tar.bz2",
        "2.7 GB",
        "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
    ),
    n_recordings=13_100,
)
FOLDER = Corpus(
    name="folder",
    description="your own recordings: WAV, FLAC, MP3, OGG, AIFF and more, of any rate, in any subfolders",
    homepage="",
    license="yours",
    sample_rate=16_000,
    quantizer=MuLaw(),
    min_max_normalized=False,
    length=None,
    marker="*",
    split=user_split,
)

CORPORA = {corpus.name: corpus for corpus in (SC09, BEETHOVEN, YOUTUBEMIX, FSDD, LJSPEECH, FOLDER)}
