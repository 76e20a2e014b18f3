"""Which is the better backbone of a diffusion model: SaShiMi, or the WaveNet of DiffWave?

    python -m benchmarks.quality.diffusion runs/data/digits --seconds 1200
    python -m benchmarks.quality.diffusion runs/data/digits --steps 2000 --seeds 0 --label short
    python -m benchmarks.quality.diffusion runs/data/digits --full --seconds 240 --seeds 0
    python -m benchmarks.quality.diffusion runs/data/digits --quick     to see that it runs; writes nothing

The folder holds ``train``, ``valid`` and ``test``, with files named DIGIT_SPEAKER_NUMBER. Every digit is
brought to the recipe's length, mean 0 and peak 1 (`sashimi_lib.audio.fit_length`). Both networks have
about equally many parameters, and are conditioned on the digit.

With ``--seconds`` each trains for as many steps as fit into that time, and the faster one once more for as
many steps as the slower one: equal time, and equal steps. The learning rate decays to zero by the last step
of each run. With ``--steps`` only equal steps are compared. Steps are timed in turn beforehand. ``--full``
takes the paper's small networks, 7 million parameters each, for a GPU.

Each model is evaluated by its denoising losses on the test recordings, and by 20 generated examples of each
digit, with 6 and 20 steps of a solver and with every step of its schedule, without and with classifier-free
guidance. A classifier gives the accuracy for the requested digit, and the Fréchet distance of its features
from those of the training recordings; the same for equally many test recordings.

Finished figures are stored under ``--runs`` by their settings: the same command resumes, and one with other
seeds or sampling configurations adds to them. Once steps are timed, several processes may share the work.
Writes ``book/results/diffusion_FOLDER.json``, and the first digits that every model generated.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpus import LabelledAudio, load_digits
from benchmarks.lib.digit_metrics import (
    SAMPLING,
    SamplingConfig,
    classifier_features,
    digit_metrics,
    generate_digits,
    loss_by_level,
)
from benchmarks.lib.result import ROOT, ErrorCollector, load_or_compute, results_folder, save_result
from benchmarks.lib.timing import interleaved
from benchmarks.lib.training import default_device
from sashimi_lib.audio import write
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.training import recipes
from sashimi_lib.training.finite_checks import clip_gradients
from sashimi_lib.training.optimizer import new_optimizer
from sashimi_lib.training.recipes import DiffusionRecipe
from sashimi_lib.training.trainer import train

RUNS = ROOT / "runs" / "diffusion"
SMALL = {"SaShiMi": recipes.DIGITS_DIFFUSION_SASHIMI, "DiffWave": recipes.DIGITS_DIFFWAVE}


def enlarged(small: DiffusionRecipe, paper: DiffusionRecipe) -> DiffusionRecipe:
    """The small recipe with the paper's network, batch size and learning rates."""
    backbone = dataclasses.replace(paper.config.backbone, n_classes=small.config.backbone.n_classes)
    rates = {name: getattr(paper.training, name) for name in ("batch_size", "lr", "ssm_lr")}
    return dataclasses.replace(
        small,
        config=dataclasses.replace(small.config, backbone=backbone),
        training=dataclasses.replace(small.training, **rates),
    )


FULL = {
    "SaShiMi": enlarged(SMALL["SaShiMi"], recipes.SC09_DIFFUSION_SASHIMI_SMALL),
    "DiffWave": enlarged(SMALL["DiffWave"], recipes.SC09_DIFFWAVE_SMALL),
}
REPEATS = {"training": 9, "generation": 3}  # of each timing


def train_with_validation(
    recipe: DiffusionRecipe, corpus: dict[str, LabelledAudio], steps: int, seed: int, checkpoint: Path
) -> tuple[DiffusionModel, list[tuple[int, float]]]:
    """A trained model with the weights of its best validation, and the (step, loss) of all validations."""
    model = recipe.build(seed).to(default_device())
    config = dataclasses.replace(
        recipe.training,
        steps=steps,
        seed=seed,
        decay="cosine",
        warmup=min(recipe.training.warmup, steps // 10),
        valid_every=max(1, steps // 10),
        precision="bfloat16" if torch.cuda.is_available() else "float32",
    )
    history = train(model, corpus["train"].pairs(), config, checkpoint, valid=corpus["valid"].pairs())
    return model, history.valid


def train_and_evaluate(
    name: str,
    recipe: DiffusionRecipe,
    corpus: dict[str, LabelledAudio],
    steps: int,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All figures of one run, computed or read from its files. The first digits generated with each sampling
    configuration are written beside them."""
    run = runs_folder(options) / f"{name}_{steps}_{seed}"
    trained = functools.cache(
        lambda: train_with_validation(recipe, corpus, steps, seed, run.with_suffix(".pt"))
    )
    reference = functools.cache(lambda: classifier_features(corpus["train"].waveform))
    label = corpus["train"].label.unique().repeat(options.each)

    def sample_metrics(sampling: str) -> dict[str, Any]:
        generated = generate_digits(trained()[0], SAMPLING[sampling], label, recipe.length)
        first = generated[: len(label) // options.each].flatten()
        write(clip_path(run, sampling), first, recipe.sample_rate)
        figures = digit_metrics(LabelledAudio(generated, label), reference())
        print(run.name, sampling, figures, flush=True)
        return figures

    def losses() -> dict[str, Any]:
        model, valid = trained()
        return {"valid": valid, "loss_by_level": loss_by_level(model, corpus["test"])}

    samples = {
        sampling: load_or_compute(
            Path(f"{run} {sampling} {options.each}.json"), functools.partial(sample_metrics, sampling)
        )
        for sampling in options.ways
    }
    figures = load_or_compute(Path(f"{run} levels.json"), losses)
    return {"seed": seed, "steps": steps} | figures | {"samples": samples}


def training_step(recipe: DiffusionRecipe, data: LabelledAudio) -> Callable[[], None]:
    """A function that runs one training step, to be timed."""
    model = recipe.build(0).to(default_device())
    optimizer = new_optimizer(model, recipe.training)
    x, label = (part[: recipe.training.batch_size].to(model.device) for part in data)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=torch.cuda.is_available()):
            loss = model.loss(x, label=label)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, recipe.training)
        optimizer.step()
        loss.item()  # waits for a GPU

    return step


def generation(recipe: DiffusionRecipe, sampling: SamplingConfig) -> Callable[[], Tensor]:
    """A function that generates one second of audio, to be timed."""
    model = recipe.build(0).to(default_device())
    label = torch.zeros(1, dtype=torch.long)
    return lambda: generate_digits(model, sampling, label, recipe.sample_rate)


def seconds_per_step(models: dict[str, DiffusionRecipe], data: LabelledAudio) -> dict[str, float]:
    """Seconds of a training step, the models in turn."""
    steps = {name: training_step(recipe, data) for name, recipe in models.items()}
    return interleaved(steps, REPEATS["training"])


def seconds_per_second(models: dict[str, DiffusionRecipe], sampling: str) -> dict[str, float]:
    """Seconds to generate a second of audio, the models in turn."""
    runs = {name: generation(recipe, SAMPLING[sampling]) for name, recipe in models.items()}
    return interleaved(runs, REPEATS["generation"])


def budgets(options: argparse.Namespace, step_seconds: dict[str, float]) -> dict[str, dict[str, int]]:
    """Training steps of each model: in equal time, and in equal numbers."""
    if options.steps:
        return {"equal steps": dict.fromkeys(step_seconds, options.steps)}
    fitting = {name: max(1, int(options.seconds / seconds)) for name, seconds in step_seconds.items()}
    return {"equal time": fitting, "equal steps": dict.fromkeys(fitting, min(fitting.values()))}


def describe(recipe: DiffusionRecipe) -> dict[str, Any]:
    """A recipe as JSON, with the names of its classes."""
    kinds = {"backbone": recipe.config.backbone, "schedule": recipe.config.schedule}
    names = {name: type(value).__name__ for name, value in kinds.items()}
    return json.loads(json.dumps(dataclasses.asdict(recipe) | names, default=str))


def result_name(options: argparse.Namespace) -> str:
    """The name of the result and the prefix of its clips."""
    parts = ["diffusion", options.folder.name, "full" if options.full else None, options.label]
    return "_".join(filter(None, parts))


def chosen_models(options: argparse.Namespace) -> dict[str, DiffusionRecipe]:
    """The models that ``options`` names."""
    return {name: (FULL if options.full else SMALL)[name] for name in options.only}


def runs_folder(options: argparse.Namespace) -> Path:
    """The folder of these runs; its name depends on the recipes, and on the time or number of steps."""
    models = {name: describe(recipe) for name, recipe in chosen_models(options).items()}
    settings = json.dumps([models, options.seconds, options.steps])
    return options.runs / f"{options.folder.name}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def clip_path(run: Path, sampling: str) -> Path:
    """The file of the first digits that a run generated with a sampling configuration."""
    return run.with_name(f"{run.name}_{sampling}.flac".replace(", ", "_").replace(" ", "_"))


def measure(
    corpus: dict[str, LabelledAudio],
    options: argparse.Namespace,
    write_figures: Callable[[dict[str, Any]], None],
    errors: ErrorCollector,
) -> None:
    """Compute all figures, or read them from the files of earlier runs. ``write_figures`` receives those so
    far after each run."""
    models = chosen_models(options)
    folder = runs_folder(options)
    step_seconds = load_or_compute(folder / "steps.json", lambda: seconds_per_step(models, corpus["train"]))
    steps = budgets(options, step_seconds)
    print(step_seconds, steps, flush=True)
    sampling_seconds = {
        sampling: load_or_compute(
            folder / f"sound {sampling}.json", functools.partial(seconds_per_second, models, sampling)
        )
        for sampling in options.ways
    }
    reference = classifier_features(corpus["train"].waveform)
    figures = {
        "models": {
            name: {
                "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
                "seconds_per_step": step_seconds[name],
                "seconds_per_second_of_sound": {
                    sampling: seconds[name] for sampling, seconds in sampling_seconds.items()
                },
                "runs": {budget: [] for budget in steps},
                "clips": {},
            }
            for name, recipe in models.items()
        },
        "real_recordings": digit_metrics(corpus["test"].balanced(options.each), reference),
    }
    for seed, (budget, steps_of), name in itertools.product(options.seeds, steps.items(), models):
        with errors.collect(f"{name}, {budget}, seed {seed}"):
            run = train_and_evaluate(name, models[name], corpus, steps_of[name], seed, options)
            figures["models"][name]["runs"][budget].append(run)
            write_figures(figures)


def copy_clips(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Copy the clips of the first seed of the first budget beside the result."""
    for name, model in figures["models"].items():
        first_run = next(iter(model["runs"].values()))[:1]
        for run, sampling in itertools.product(first_run, options.ways):
            source = clip_path(runs_folder(options) / f"{name}_{run['steps']}_{run['seed']}", sampling)
            target = clip_path(results_folder() / f"{result_name(options)}_{name}", sampling)
            shutil.copy(source, target)
            model["clips"][sampling] = target.name


def main() -> None:
    """Time and train all models, evaluate them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=1200.0, help="training time of a run")
    budget.add_argument("--steps", type=int, help="training steps of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--each", type=int, default=20, help="generated examples of each digit")
    parser.add_argument(
        "--ways", nargs="+", choices=SAMPLING, default=list(SAMPLING), help="sampling configurations"
    )
    parser.add_argument("--full", action="store_true", help="the paper's small networks, for a GPU")
    parser.add_argument(
        "--only", nargs="+", choices=SMALL, default=list(SMALL), help="train these models only"
    )
    parser.add_argument("--label", help="suffix of the result's name")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder for checkpoints and figures of runs")
    parser.add_argument("--quick", action="store_true", help="few steps and examples; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = next(iter(chosen_models(options).values()))
    corpus = load_digits(options.folder, recipe.sample_rate, recipe.length)
    with ErrorCollector() as errors:
        if not options.quick:
            measure(corpus, options, functools.partial(write_result, options, recipe.length), errors)
            return
        with tempfile.TemporaryDirectory() as runs:
            options.runs, options.steps, options.seeds, options.each = Path(runs), 2, [0], 2
            options.ways = ["6 steps", "6 steps, guided"]
            small = {split: audio.balanced(2) for split, audio in corpus.items()}
            measure(small, options, print, errors)


def write_result(options: argparse.Namespace, length: int, figures: dict[str, Any]) -> None:
    """Write the result, and the clips beside it."""
    copy_clips(options, figures)
    save_result(
        result_name(options),
        question="SaShiMi against DiffWave as the backbone of a diffusion model, after equal training time "
        "and after equally many steps",
        config={
            "seconds": None if options.steps else options.seconds,
            "seeds": options.seeds,
            "size": "paper, small" if options.full else "small",
            "sounds_of_each_digit": options.each,
            "ways": {
                name: SAMPLING[name]._asdict() | {"sampler": str(SAMPLING[name].sampler)}
                for name in options.ways
            },
            "recipes": {name: describe(recipe) for name, recipe in chosen_models(options).items()},
            "decay": "cosine, by the last step of each run",
        },
        figures=figures,
        units={
            "valid": "steps, and mean squared error of the network's prediction on the validation recordings",
            "loss_by_level": "mean squared errors of the noise and of the clean waveform, by step of the "
            "schedule; test recordings",
            "frechet": "squared distance of the classifier's features from those of the training "
            "recordings; real_recordings: equally many test recordings",
            "accuracy": "fraction of examples that the classifier recognizes as the requested digit",
            "seconds_per_step": "s, median, the models in turn",
            "seconds_per_second_of_sound": "s, median, the models in turn, batch size 1",
        },
        repeats=len(options.seeds),
        seed=options.seeds[0],
        data=f"{options.folder.name}: mean 0, peak 1, {length} samples; longer ones without their leading "
        "silence, then cut at the end",
    )


if __name__ == "__main__":
    main()
