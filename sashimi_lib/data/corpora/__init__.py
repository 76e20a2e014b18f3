"""Published corpora, and any folder of recordings: download, published split, datasets for training.

    SC09.fetch("data")                   # download, verify and unpack, or raise with instructions
    train = SC09.codes("data", "train")  # a dataset for `sashimi_lib.training.trainer.train`

Chapter: 10.
"""

from sashimi_lib.data.corpora.archive import Archive
from sashimi_lib.data.corpora.corpus import Codes, Corpus, normalize_min_max
from sashimi_lib.data.corpora.registry import BEETHOVEN, CORPORA, FOLDER, FSDD, LJSPEECH, SC09, YOUTUBEMIX

__all__ = [
    "BEETHOVEN",
    "CORPORA",
    "FOLDER",
    "FSDD",
    "LJSPEECH",
    "SC09",
    "YOUTUBEMIX",
    "Archive",
    "Codes",
    "Corpus",
    "normalize_min_max",
]
