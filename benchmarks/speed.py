"""What a training step and a generated sample cost, at the paper's sizes (table 5), side by side.

    python benchmarks/speed.py                on one CPU thread, about ten minutes
    python benchmarks/speed.py --full         on a GPU, with the paper's segments

Times do not depend on what is heard, so the codes are random. Training time is counted per sample, since not
all models take a batch of the same size. Writes ``book/results/speed.json``, or ``speed_full.json``.
"""

import argparse
import dataclasses

import torch
from autoregressive import learn, samples_per_second, seconds_per_step, working
from corpus import Corpus, pieces
from memory import peak_of
from result import Parts, save_result

from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import Recipe

MODELS = {
    "SaShiMi-2": recipes.YOUTUBEMIX_SASHIMI_2,
    "SaShiMi-4": recipes.YOUTUBEMIX_SASHIMI_4,
    "SaShiMi-8": recipes.YOUTUBEMIX_SASHIMI_8,
    "SaShiMi-8, U-Net": recipes.SC09_SASHIMI_UNET_8,
    "flat S4, 4 layers": recipes.YOUTUBEMIX_ISOTROPIC_4,
    "WaveNet-1024": recipes.YOUTUBEMIX_WAVENET_1024,
    "WaveNet-512": recipes.YOUTUBEMIX_WAVENET_512,
    "SampleRNN, 3 tiers": recipes.YOUTUBEMIX_SAMPLERNN_3,
    "SampleRNN, 2 tiers": recipes.YOUTUBEMIX_SAMPLERNN_2,
}
SEGMENT, SEQUENCES = 8_192, 8  # samples of a segment on a CPU; SampleRNN's sequences side by side there
ROUNDS = 2


def reduced(recipe: Recipe, length: int = SEGMENT) -> Recipe:
    """The same model on less data a step, as a CPU can bear."""
    several = recipe.training.tbptt_length is not None
    training = dataclasses.replace(recipe.training, batch_size=SEQUENCES if several else 1)
    return dataclasses.replace(recipe, length=length, training=training)


def _train_a_little(recipe: Recipe, data: list[torch.Tensor]) -> None:
    torch.set_num_threads(1)
    learn(recipe, data, 2, 1.0, seed=0)


def peak_mebibytes(recipe: Recipe, corpus: Corpus) -> float:
    """What a model and its training take."""
    data = pieces(corpus["train"], recipe.length)[: 2 * recipe.training.batch_size]
    return peak_of(_train_a_little, recipe, data)


def main() -> None:
    """Time all models in turn and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's segments, for a GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = MODELS if options.full else {name: reduced(recipe) for name, recipe in MODELS.items()}
    longest = max(recipe.length * recipe.training.batch_size for recipe in models.values())
    codes = [torch.randint(0, 256, (longest,), generator=torch.Generator().manual_seed(0))]
    corpus = {"train": codes}
    with Parts() as parts:
        measure(working(models, corpus, parts), corpus, parts, "speed_full" if options.full else "speed")


def measure(models: dict[str, Recipe], corpus: Corpus, parts: Parts, result: str) -> None:
    """Time all, then find what each takes; what there is is written after each."""
    steps = seconds_per_step(models, corpus, ROUNDS)
    speeds = samples_per_second(models, ROUNDS)
    figures: dict[str, dict[str, object]] = {
        name: {
            "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
            "training_microseconds_per_sample": [
                1e6 * seconds / recipe.samples_per_step for seconds in steps[name]
            ],
            "generated_samples_per_second": speeds[name],
        }
        for name, recipe in models.items()
    }
    record(result, models, figures)
    for name, recipe in models.items():
        with parts.of(name):
            figures[name]["peak_mebibytes"] = peak_mebibytes(recipe, corpus)
            record(result, models, figures)


def record(result: str, models: dict[str, Recipe], figures: dict[str, dict[str, object]]) -> None:
    """Write the result."""
    save_result(
        result,
        question="Time of a training step and of a generated sample at the paper's sizes",
        config={
            name: {"length": recipe.length, "batch_size": recipe.training.batch_size}
            for name, recipe in models.items()
        },
        figures=figures,
        units={
            "training_microseconds_per_sample": "one entry a round: one CPU thread, or the wall on a GPU",
            "peak_mebibytes": "MiB that a model and its training take",
        },
        repeats=ROUNDS,
        seed=0,
    )


if __name__ == "__main__":
    main()
