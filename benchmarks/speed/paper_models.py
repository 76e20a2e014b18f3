"""What a training step and a generated sample cost at the paper's sizes (table 5).

    python -m benchmarks.speed.paper_models            on one CPU thread, about ten minutes
    python -m benchmarks.speed.paper_models --full     on a GPU, with the paper's segments

Times do not depend on the data, so codes are random. Training time is given per sample, since batch sizes
differ among models. Writes ``book/results/speed.json``, or ``speed_full.json``.
"""

import argparse

import torch

from benchmarks.lib.corpus import CodesBySplit
from benchmarks.lib.models import reduced
from benchmarks.lib.result import ErrorCollector, save_result
from benchmarks.lib.training import peak_mebibytes, runnable_models, samples_per_second, seconds_per_step
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
SEGMENT = 8_192  # samples of a segment on a CPU
ROUNDS = 2


def main() -> None:
    """Measure all models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's segments, for a GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = MODELS if options.full else {name: reduced(recipe, SEGMENT) for name, recipe in MODELS.items()}
    longest = max(recipe.length * recipe.training.batch_size for recipe in models.values())
    codes = [torch.randint(0, 256, (longest,), generator=torch.Generator().manual_seed(0))]
    corpus = {"train": codes}
    with ErrorCollector() as errors:
        runnable = runnable_models(models, corpus, errors)
        measure(runnable, corpus, errors, "speed_full" if options.full else "speed")


def measure(models: dict[str, Recipe], corpus: CodesBySplit, errors: ErrorCollector, result: str) -> None:
    """Time all models in turn, then measure the memory of each, writing the result after each."""
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
    write_result(result, models, figures)
    for name, recipe in models.items():
        with errors.collect(name):
            figures[name]["peak_mebibytes"] = peak_mebibytes(recipe, corpus)
            write_result(result, models, figures)


def write_result(result: str, models: dict[str, Recipe], figures: dict[str, dict[str, object]]) -> None:
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
            "training_microseconds_per_sample": "one entry a round: of one CPU thread, or wall time on a GPU",
            "peak_mebibytes": "MiB, peak of a model and its training",
        },
        repeats=ROUNDS,
        seed=0,
    )


if __name__ == "__main__":
    main()
