"""Train the classifier of spoken digits that ships with the library, and judge it.

    python tools/train_classifier.py runs/data/digits

The folder holds ``train``, ``valid`` and ``test``, with files called DIGIT_SPEAKER_NUMBER in each. It hears
every recording of ``train`` at five speeds, under noise of any loudness, through a filter that is dull or
sharp, with silence around it. About four minutes on one CPU thread. Writes
``sashimi_lib/weights/judges/digits.safetensors`` and ``book/results/digit_classifier.json``.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from corpus import Word, fitted, words
from result import save_result

from sashimi_lib.audio import resample
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.evaluation.classifier import (
    SHIPPED,
    Classifier,
    ClassifierConfig,
    load_classifier,
    save_classifier,
)

RATE, SEED = 8_000, 0
EPOCHS, BATCH, LR, WEIGHT_DECAY = 32, 64, 4e-3, 0.02
SPEEDS = (0.84, 0.92, 1.0, 1.08, 1.16)
LENGTHS = (4_096, 8_000)  # of what it hears, from so many to so many samples
NOISE = (-60.0, -10.0)  # dB of the peak
NOTES = {
    "data": "Spoken digits, 195 takes of each by five speakers; 15 to choose by, 25 to be judged by",
    "credit": "Free Spoken Digit Dataset, Zohar Jackson and contributors, CC BY-SA 4.0",
}


def at_speeds(waveform: Tensor) -> list[Tensor]:
    """A recording played slower and faster, its pitch with it."""
    return [resample(waveform, round(RATE * speed), RATE) for speed in SPEEDS]


def varied(waveforms: list[Tensor], length: int, generator: torch.Generator) -> Tensor:
    """Recordings as (batch, length): each somewhere in silence, filtered by 1 + a z^-1, under noise."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(waveforms), 1, generator=generator)

    x = torch.stack([fitted(waveform, length) for waveform in waveforms])
    spare = [max(0, length - len(waveform)) for waveform in waveforms]
    shifts = (uniform(0, 1)[:, 0] * torch.tensor(spare)).int().tolist()
    x = torch.stack([row.roll(shift) for row, shift in zip(x, shifts, strict=True)])
    x = x + uniform(-0.9, 0.9) * F.pad(x, (1, -1))
    peak = x.abs().amax(dim=1, keepdim=True)
    return x + peak * 10 ** (uniform(*NOISE) / 20) * torch.randn(x.shape, generator=generator)


def learn(train: list[Word], config: ClassifierConfig) -> Classifier:
    """A classifier trained from the seed; its rate rises for a tenth of the time, then falls to nothing."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    classifier = Classifier(config).train()
    versions, labels = [at_speeds(word.waveform) for word in train], torch.tensor([w.label for w in train])
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    bar = tqdm(range(EPOCHS), unit="epoch")
    for _ in bar:
        order = torch.randperm(len(train), generator=generator)
        for numbers in order.split(BATCH)[: len(train) // BATCH]:
            speeds = torch.randint(len(SPEEDS), (BATCH,), generator=generator).tolist()
            length = int(torch.randint(*LENGTHS, (1,), generator=generator))
            chosen = [versions[n][speed] for n, speed in zip(numbers.tolist(), speeds, strict=True)]
            loss = F.cross_entropy(classifier(varied(chosen, length, generator)), labels[numbers])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.set_postfix_str(f"{loss.item():.3f} nats")
    return classifier.eval()


def heard(classifier: Classifier, waveforms: list[Tensor]) -> Tensor:
    """The word that is heard in each, one at a time, as long as it is."""
    return torch.cat([classifier.classify(waveform[None])[0] for waveform in waveforms])


def accuracy(classifier: Classifier, found: list[Word], length: int | None = None) -> float:
    """The share of words that are heard rightly: whole, or cut or filled up to a length."""
    waveforms = [w.waveform if length is None else fitted(w.waveform, length) for w in found]
    right = heard(classifier, waveforms) == torch.tensor([word.label for word in found])
    return float(right.double().mean())


def judge(classifier: Classifier, splits: dict[str, list[Word]]) -> dict[str, object]:
    """All figures of a classifier."""
    test = splits["test"]
    confusion = torch.zeros(10, 10, dtype=torch.long)
    for word, label in zip(test, heard(classifier, [word.waveform for word in test]), strict=True):
        confusion[word.label, label] += 1
    bundled = [Word(clip.waveform, digit, "") for digit, clip in spoken_digits().items()]
    return {
        "accuracy": {split: accuracy(classifier, found) for split, found in splits.items()},
        "test_accuracy_at_4096_samples": accuracy(classifier, test, 4_096),
        "test_accuracy_by_speaker": {
            speaker: accuracy(classifier, [word for word in test if word.speaker == speaker])
            for speaker in sorted({word.speaker for word in test})
        },
        "bundled_digits_right": round(10 * accuracy(classifier, bundled)),
        "confusion": confusion.tolist(),
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "file_bytes": SHIPPED.stat().st_size,
        "recordings": {split: len(found) for split, found in splits.items()},
    }


def main() -> None:
    """Train, write, judge what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judge", action="store_true", help="do not train: judge the one that ships")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = {split: words(options.folder / split, RATE) for split in ("train", "valid", "test")}
    if not options.judge:
        save_classifier(SHIPPED, learn(splits["train"], ClassifierConfig()), NOTES)
    classifier = load_classifier()
    figures = judge(classifier, splits)
    print(figures)
    save_result(
        "digit_classifier",
        question="how often the classifier that judges generated digits is right about real ones",
        config={
            "classifier": dataclasses.asdict(classifier.config),
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "learning_rate": LR,
            "weight_decay": WEIGHT_DECAY,
            "speeds": SPEEDS,
            "noise_db_of_the_peak": NOISE,
            "samples_heard": LENGTHS,
            "weights": "as they ship, in float16",
        },
        figures=figures,
        units={
            "accuracy": "share of recordings whose word is the likeliest, heard whole",
            "test_accuracy_at_4096_samples": "the same of 0.51 s, as the diffusion models hear them",
            "bundled_digits_right": "of the ten digits that ship, a speaker it did not learn from",
            "confusion": "test recordings: a row for the word that was said, a column for the one heard",
        },
        repeats=1,
        seed=SEED,
        data=f"{options.folder.name}: {NOTES['data']}",
    )


if __name__ == "__main__":
    main()
