"""Published corpora, and any folder of recordings: fetched, split as published, read as training takes them.

    SC09.fetch("data")                   # downloads, checks, unpacks; or says what to do by hand
    train = SC09.codes("data", "train")  # what `sashimi_lib.training.trainer.train` takes

Chapter: 10.
"""

from sashimi_lib.data.corpora.archive import Archive
from sashimi_lib.data.corpora.corpus import Codes, Corpus, normalize_min_max
from sashimi_lib.data.corpora.known import BEETHOVEN, CORPORA, FOLDER, FSDD, LJSPEECH, SC09, YOUTUBEMIX

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
