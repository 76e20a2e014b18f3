"""Which is the better backbone of a diffusion model: SaShiMi, or the WaveNet of DiffWave?

    python benchmarks/diffusion.py runs/data/digits --seconds 1200
    python benchmarks/diffusion.py runs/data/digits --steps 2000 --seeds 0 --label short
    python benchmarks/diffusion.py runs/data/digits --full --seconds 240 --seeds 0
    python benchmarks/diffusion.py runs/data/digits --quick     to see that it runs; keeps nothing

The folder holds ``train``, ``valid`` and ``test``, with files called DIGIT_SPEAKER_NUMBER in each. Every
digit is brought to the length of the recipe, its mean taken off and its peak at 1; a longer one loses the
silence before it and then its end (`corpus.fitted`). Both networks are of about as many parameters, and are
told the digit.

With ``--seconds`` each trains as many steps as fit into that time, and the faster one once more, for as many
steps as the slower one had: equal time, and equal steps. Each run's learning rate falls to nothing by its own
last step. With ``--steps`` there are equal steps alone. The steps are timed side by side beforehand. With
``--full`` they are the paper's small networks, 7 million parameters each, for a GPU.

Then every model is asked how well it hears the noise in the test recordings, and for 20 of each digit, by 6
and by 20 steps of a solver and by every step of its schedule, as it believes the label and with guidance.
A classifier says how often the digit is heard that was asked for, and how far its features of the generated
digits are from those of the training recordings; beside it, how far as many test recordings are.

What is done is kept under ``--runs``, by what was asked for: the same command goes on where it stopped, and
one with other seeds or ways of drawing adds to it. Once the steps are timed, several may share the work.
Writes ``book/results/diffusion_FOLDER.json``, and the first draws of every model.
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
from autoregressive import device
from corpus import Sounds, sounds
from judging import WAYS, Way, draw, features_of, listen, loss_by_level
from result import RESULTS, Parts, kept, save_result
from timing import interleaved
from torch import Tensor

from sashimi_lib.audio import write
from sashimi_lib.diffusion.model import DiffusionModel
from sashimi_lib.training import recipes
from sashimi_lib.training.finite_checks import clip_gradients
from sashimi_lib.training.optimizer import new_optimizer
from sashimi_lib.training.recipes import DiffusionRecipe
from sashimi_lib.training.trainer import train

RUNS = Path(__file__).resolve().parents[1] / "runs" / "diffusion"
SMALL = {"SaShiMi": recipes.DIGITS_DIFFUSION_SASHIMI, "DiffWave": recipes.DIGITS_DIFFWAVE}


def enlarged(small: DiffusionRecipe, paper: DiffusionRecipe) -> DiffusionRecipe:
    """The paper's network, batch and rate for the digits; schedule, prediction and averaging as they are."""
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
REPEATS = {"training": 9, "generation": 3}  # of timing


def learn(
    recipe: DiffusionRecipe, corpus: dict[str, Sounds], steps: int, seed: int, checkpoint: Path
) -> tuple[DiffusionModel, list[tuple[int, float]]]:
    """A model after so many steps, with its best weights by the validation recordings; and how these went."""
    model = recipe.build(seed).to(device())
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


def contend(
    name: str,
    recipe: DiffusionRecipe,
    corpus: dict[str, Sounds],
    steps: int,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train and judge: all figures of one run. The first draws of each way are written beside the run."""
    stem = place(options) / f"{name}_{steps}_{seed}"
    learned = functools.cache(lambda: learn(recipe, corpus, steps, seed, stem.with_suffix(".pt")))
    features = functools.cache(lambda: features_of(corpus["train"].waveform))
    label = corpus["train"].label.unique().repeat(options.each)

    def heard(way: str) -> dict[str, Any]:
        made = draw(learned()[0], WAYS[way], label, recipe.length)
        first = made[: len(label) // options.each].flatten()
        write(clip(stem, way), first, recipe.sample_rate)
        figures = listen(Sounds(made, label), features())
        print(stem.name, way, figures, flush=True)
        return figures

    def levels() -> dict[str, Any]:
        model, valid = learned()
        return {"valid": valid, "loss_by_level": loss_by_level(model, corpus["test"])}

    samples = {
        way: kept(Path(f"{stem} {way} {options.each}.json"), functools.partial(heard, way))
        for way in options.ways
    }
    return {"seed": seed, "steps": steps} | kept(Path(f"{stem} levels.json"), levels) | {"samples": samples}


def training_step(recipe: DiffusionRecipe, train_on: Sounds) -> Callable[[], None]:
    """One step of training, ready to be timed."""
    model = recipe.build(0).to(device())
    optimizer = new_optimizer(model, recipe.training)
    x, label = (part[: recipe.training.batch_size].to(model.device) for part in train_on)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=torch.cuda.is_available()):
            loss = model.loss(x, label=label)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, recipe.training)
        optimizer.step()
        loss.item()  # a GPU has done all by then

    return step


def generation(recipe: DiffusionRecipe, way: Way) -> Callable[[], Tensor]:
    """One second of sound, ready to be timed."""
    model = recipe.build(0).to(device())
    label = torch.zeros(1, dtype=torch.long)
    return lambda: draw(model, way, label, recipe.sample_rate)


def seconds_per_step(models: dict[str, DiffusionRecipe], train_on: Sounds) -> dict[str, float]:
    """Of training, all models in turn."""
    steps = {name: training_step(recipe, train_on) for name, recipe in models.items()}
    return interleaved(steps, REPEATS["training"])


def seconds_per_second(models: dict[str, DiffusionRecipe], way: str) -> dict[str, float]:
    """Of sound, all models in turn."""
    turns = {name: generation(recipe, WAYS[way]) for name, recipe in models.items()}
    return interleaved(turns, REPEATS["generation"])


def budgets(options: argparse.Namespace, step_seconds: dict[str, float]) -> dict[str, dict[str, int]]:
    """How many steps each model trains: in equal time, and as many as all others."""
    if options.steps:
        return {"equal steps": dict.fromkeys(step_seconds, options.steps)}
    fitting = {name: max(1, int(options.seconds / seconds)) for name, seconds in step_seconds.items()}
    return {"equal time": fitting, "equal steps": dict.fromkeys(fitting, min(fitting.values()))}


def describe(recipe: DiffusionRecipe) -> dict[str, Any]:
    """A recipe as JSON can hold it, with the names of its classes."""
    kinds = {"backbone": recipe.config.backbone, "schedule": recipe.config.schedule}
    names = {name: type(value).__name__ for name, value in kinds.items()}
    return json.loads(json.dumps(dataclasses.asdict(recipe) | names, default=str))


def stem(options: argparse.Namespace) -> str:
    """What the files of a result are called."""
    parts = ["diffusion", options.folder.name, "full" if options.full else None, options.label]
    return "_".join(filter(None, parts))


def contenders(options: argparse.Namespace) -> dict[str, DiffusionRecipe]:
    """The models that are asked for."""
    return {name: (FULL if options.full else SMALL)[name] for name in options.only}


def place(options: argparse.Namespace) -> Path:
    """The folder of the runs that were asked for: of other recipes, or of another time, it is another."""
    models = {name: describe(recipe) for name, recipe in contenders(options).items()}
    asked = json.dumps([models, options.seconds, options.steps])
    return options.runs / f"{options.folder.name}_{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def clip(run: Path, way: str) -> Path:
    """Where the first draws of a run lie."""
    return run.with_name(f"{run.name}_{way}.flac".replace(", ", "_").replace(" ", "_"))


def measure(
    corpus: dict[str, Sounds],
    options: argparse.Namespace,
    report: Callable[[dict[str, Any]], None],
    parts: Parts,
) -> None:
    """All figures, what was kept and what was not; those that there are go to ``report`` after each run."""
    models = contenders(options)
    timed = kept(place(options) / "steps.json", lambda: seconds_per_step(models, corpus["train"]))
    steps = budgets(options, timed)
    print(timed, steps, flush=True)
    sound = {
        way: kept(place(options) / f"sound {way}.json", functools.partial(seconds_per_second, models, way))
        for way in options.ways
    }
    figures = {
        "models": {
            name: {
                "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
                "seconds_per_step": timed[name],
                "seconds_per_second_of_sound": {way: sound[way][name] for way in options.ways},
                "runs": {budget: [] for budget in steps},
                "clips": {},
            }
            for name, recipe in models.items()
        },
        "real_recordings": listen(corpus["test"].each(options.each), features_of(corpus["train"].waveform)),
    }
    for seed, (budget, of_each), name in itertools.product(options.seeds, steps.items(), models):
        with parts.of(f"{name}, {budget}, seed {seed}"):
            run = contend(name, models[name], corpus, of_each[name], seed, options)
            figures["models"][name]["runs"][budget].append(run)
            report(figures)


def bring(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """The first draws of the first seed after the whole time, to lie beside the result."""
    for name, model in figures["models"].items():
        for run, way in itertools.product(next(iter(model["runs"].values()))[:1], options.ways):
            made = clip(place(options) / f"{name}_{run['steps']}_{run['seed']}", way)
            to = clip(RESULTS / f"{stem(options)}_{name}", way)
            shutil.copy(made, to)
            model["clips"][way] = to.name


def main() -> None:
    """Time, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=1200.0, help="training time of a run")
    budget.add_argument("--steps", type=int, help="training steps of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--each", type=int, default=20, help="sounds of each digit")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how they are drawn")
    parser.add_argument("--full", action="store_true", help="the paper's small networks, for a GPU")
    parser.add_argument("--only", nargs="+", choices=SMALL, default=list(SMALL), help="some of the models")
    parser.add_argument("--label", help="goes into the name of the result, to keep it beside others")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="few steps and sounds; nothing is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    like = next(iter(contenders(options).values()))
    corpus = sounds(options.folder, like.sample_rate, like.length)
    with Parts() as parts:
        if not options.quick:
            measure(corpus, options, functools.partial(record, options, like.length), parts)
            return
        with tempfile.TemporaryDirectory() as runs:
            options.runs, options.steps, options.seeds, options.each = Path(runs), 2, [0], 2
            options.ways = ["6 steps", "6 steps, guided"]
            measure({split: found.each(2) for split, found in corpus.items()}, options, print, parts)


def record(options: argparse.Namespace, length: int, figures: dict[str, Any]) -> None:
    """Write the result, and the draws beside it."""
    bring(options, figures)
    save_result(
        stem(options),
        question="SaShiMi against DiffWave as the backbone of a diffusion model, after equal training time "
        "and after equally many steps",
        config={
            "seconds": None if options.steps else options.seconds,
            "seeds": options.seeds,
            "size": "paper, small" if options.full else "small",
            "sounds_of_each_digit": options.each,
            "ways": {way: WAYS[way]._asdict() | {"sampler": str(WAYS[way].sampler)} for way in options.ways},
            "recipes": {name: describe(recipe) for name, recipe in contenders(options).items()},
            "decay": "cosine, by the last step of each run",
        },
        figures=figures,
        units={
            "valid": "steps, and mean squared error of what the network says of the validation recordings",
            "loss_by_level": "mean squared errors of the noise and of the clean sound, by step of the "
            "schedule; test recordings",
            "frechet": "squared distance of the classifier's features from those of the training "
            "recordings; of real_recordings, test ones, as many",
            "accuracy": "share of sounds in which the classifier hears the digit that was asked for",
            "seconds_per_step": "s, median, the models in turn",
            "seconds_per_second_of_sound": "s, median, the models in turn, one sound at a time",
        },
        repeats=len(options.seeds),
        seed=options.seeds[0],
        data=f"{options.folder.name}: mean off, peak at 1, {length} samples; longer "
        "ones without the silence before and what is over",
    )


if __name__ == "__main__":
    main()
