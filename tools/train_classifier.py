"""Train the classifier of spoken digits that ships with the library, and evaluate it.

    python -m tools.train_classifier runs/data/digits

The folder holds ``train``, ``valid`` and ``test``, with files named DIGIT_SPEAKER_NUMBER. Training recordings
are augmented: five speeds, noise of any level, a low-pass or high-pass filter, silence around them. About
four minutes on one CPU thread. Writes ``sashimi_lib/weights/judges/digits.safetensors`` and
``book/results/digit_classifier.json``.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.lib.corpus import Word, load_words
from benchmarks.lib.result import save_result
from sashimi_lib.audio import fit_length, resample
from sashimi_lib.data.bundled import spoken_digits
from sashimi_lib.data.split import PARTS
from sashimi_lib.evaluation.classifier import (
    BUNDLED_WEIGHTS,
    Classifier,
    ClassifierConfig,
    load_classifier,
    save_classifier,
)

RATE, SEED = 8_000, 0
EPOCHS, BATCH, LR, WEIGHT_DECAY = 32, 64, 4e-3, 0.02
SPEEDS = (0.84, 0.92, 1.0, 1.08, 1.16)
LENGTHS = (4_096, 8_000)  # range of input lengths in samples
NOISE = (-60.0, -10.0)  # range of noise levels in dB relative to the peak
NOTES = {
    "data": "Spoken digits, 195 takes of each by five speakers; 15 for validation, 25 for test",
    "credit": "Free Spoken Digit Dataset, Zohar Jackson and contributors, CC BY-SA 4.0",
}


def at_speeds(waveform: Tensor) -> list[Tensor]:
    """A recording resampled to play slower and faster, which changes its pitch as well."""
    return [resample(waveform, round(RATE * speed), RATE) for speed in SPEEDS]


def augment(waveforms: list[Tensor], length: int, generator: torch.Generator) -> Tensor:
    """Augmented recordings (batch, length): shifted within silence, filtered by 1 + a z^-1, with noise."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(waveforms), 1, generator=generator)

    x = torch.stack([fit_length(waveform, length) for waveform in waveforms])
    spare = [max(0, length - len(waveform)) for waveform in waveforms]
    shifts = (uniform(0, 1)[:, 0] * torch.tensor(spare)).int().tolist()
    x = torch.stack([row.roll(shift) for row, shift in zip(x, shifts, strict=True)])
    x = x + uniform(-0.9, 0.9) * F.pad(x, (1, -1))
    peak = x.abs().amax(dim=1, keepdim=True)
    return x + peak * 10 ** (uniform(*NOISE) / 20) * torch.randn(x.shape, generator=generator)


def train_classifier(train: list[Word], config: ClassifierConfig) -> Classifier:
    """A trained classifier, with a one-cycle learning rate: warm-up for a tenth of the steps, then decay."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    classifier = Classifier(config).train()
    versions, labels = [at_speeds(word.waveform) for word in train], torch.tensor([w.label for w in train])
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    bar = tqdm(range(EPOCHS), unit="epoch", disable=None)
    for _ in bar:
        order = torch.randperm(len(train), generator=generator)
        for numbers in order.split(BATCH)[: len(train) // BATCH]:
            speeds = torch.randint(len(SPEEDS), (BATCH,), generator=generator).tolist()
            length = int(torch.randint(*LENGTHS, (1,), generator=generator))
            chosen = [versions[n][speed] for n, speed in zip(numbers.tolist(), speeds, strict=True)]
            loss = F.cross_entropy(classifier(augment(chosen, length, generator)), labels[numbers])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.set_postfix_str(f"{loss.item():.3f} nats")
    return classifier.eval()


def predict(classifier: Classifier, waveforms: list[Tensor]) -> Tensor:
    """Predicted labels (n,), each waveform by itself at its own length."""
    return torch.cat([classifier.classify(waveform[None])[0] for waveform in waveforms])


def accuracy(classifier: Classifier, words: list[Word], length: int | None = None) -> float:
    """The fraction of words that are classified correctly: whole, or fitted to ``length``."""
    waveforms = [w.waveform if length is None else fit_length(w.waveform, length) for w in words]
    correct = predict(classifier, waveforms) == torch.tensor([word.label for word in words])
    return float(correct.double().mean())


def evaluate(classifier: Classifier, splits: dict[str, list[Word]]) -> dict[str, object]:
    """All figures of a classifier for the result."""
    test = splits["test"]
    confusion = torch.zeros(10, 10, dtype=torch.long)
    for word, label in zip(test, predict(classifier, [word.waveform for word in test]), strict=True):
        confusion[word.label, label] += 1
    bundled = [Word(clip.waveform, digit, "") for digit, clip in spoken_digits().items()]
    return {
        "accuracy": {split: accuracy(classifier, words) for split, words in splits.items()},
        "test_accuracy_at_4096_samples": accuracy(classifier, test, 4_096),
        "test_accuracy_by_speaker": {
            speaker: accuracy(classifier, [word for word in test if word.speaker == speaker])
            for speaker in sorted({word.speaker for word in test})
        },
        "bundled_digits_right": round(10 * accuracy(classifier, bundled)),
        "confusion": confusion.tolist(),
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "file_bytes": BUNDLED_WEIGHTS.stat().st_size,
        "recordings": {split: len(words) for split, words in splits.items()},
    }


def main() -> None:
    """Train, write, and evaluate the written classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--evaluate", action="store_true", help="do not train: evaluate the classifier that ships"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = {split: load_words(options.folder / split, RATE) for split in PARTS}
    if not options.evaluate:
        save_classifier(BUNDLED_WEIGHTS, train_classifier(splits["train"], ClassifierConfig()), NOTES)
    classifier = load_classifier()
    figures = evaluate(classifier, splits)
    print(figures)
    save_result(
        "digit_classifier",
        question="accuracy on real digits of the classifier that evaluates generated ones",
        config={
            "classifier": dataclasses.asdict(classifier.config),
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "learning_rate": LR,
            "weight_decay": WEIGHT_DECAY,
            "speeds": SPEEDS,
            "noise_db_of_the_peak": NOISE,
            "samples_heard": LENGTHS,
            "weights": "as shipped, in float16",
        },
        figures=figures,
        units={
            "accuracy": "fraction of whole recordings that are classified correctly",
            "test_accuracy_at_4096_samples": "the same for 0.51 s, the length of the diffusion models",
            "bundled_digits_right": "of the ten bundled digits, by a speaker that is not in the training set",
            "confusion": "test recordings: a row for each true digit, a column for each predicted one",
        },
        repeats=1,
        seed=SEED,
        data=f"{options.folder.name}: {NOTES['data']}",
    )


if __name__ == "__main__":
    main()
