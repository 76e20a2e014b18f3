"""SaShiMi against WaveNet, SampleRNN and a flat S4: the same recordings, the same split, the same time.

    python benchmarks/autoregressive.py runs/data/piano --sample-rate 16000
    python benchmarks/autoregressive.py runs/data/digits --sample-rate 8000
    python benchmarks/autoregressive.py runs/data/piano --sample-rate 16000 --full

The folder holds ``train``, ``valid`` and ``test``, whole recordings in each. Every model trains for the same
time, in as many steps as it can make of it, on one CPU thread; its learning rate is the best of three by the
validation recordings in a quarter of that time. Under an hour for two folders on two cores. With ``--full``
the paper's sizes, on a GPU; ``--only SaShiMi --seeds 1 --seconds 240`` is a part of that which fits a short
loan, and ``--label`` keeps it beside others. Writes ``book/results/autoregressive_FOLDER.json`` and the first
draws of every model; what there is is written after each of them. With ``--like RESULT`` the steps, learning
rates and speeds of an earlier result are taken as they are, and models only trained and judged again.
"""

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from corpus import Corpus, Excerpts, excerpts, load, pieces
from result import RESULTS, Parts, save_result
from verdict import UNIT, verdict

from sashimi_lib.audio import write
from sashimi_lib.evaluation.likelihood import bigram_bits, clip_bits
from sashimi_lib.models.audio_lm import AudioLM, Autoregressive
from sashimi_lib.training import recipes
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.recipes import Recipe
from sashimi_lib.training.trainer import train

CLIPS = 4  # draws of each model that are kept
JUDGED = {"valid": 100_000, "test": 320_000}  # samples at most, in excerpts of a second or less
SMALL = {
    "SaShiMi": recipes.SMALL_SASHIMI,
    "WaveNet": recipes.SMALL_WAVENET,
    "WaveNet, a third": recipes.TINY_WAVENET,
    "SampleRNN": recipes.SMALL_SAMPLERNN,
    "flat S4": recipes.SMALL_ISOTROPIC,
}
FULL = {
    "SaShiMi": recipes.YOUTUBEMIX_SASHIMI_2,
    "WaveNet": recipes.YOUTUBEMIX_WAVENET_1024,
    "SaShiMi-8": recipes.YOUTUBEMIX_SASHIMI_8,
    "SampleRNN": recipes.YOUTUBEMIX_SAMPLERNN_3,
    "flat S4": recipes.YOUTUBEMIX_ISOTROPIC_4,
}
BATCHES = (1, 4, 16, 64, 256)  # sequences generated side by side


def device() -> torch.device:
    """Where models live: the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """Seconds that count: of the wall on a GPU, of this thread alone on a CPU that others share."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def prepared(recipe: Recipe, steps: int, factor: float, seed: int) -> tuple[Autoregressive, TrainingConfig]:
    """A new model, and how to train it: in so many steps, at so many times the recipe's learning rates.

    The rate falls to nothing by the last step, whatever the recipe's own schedule: time is short, and the
    same for all.
    """
    model = recipe.build(seed)
    if isinstance(model, AudioLM):
        init_ordered_embeddings(model)
    schedule = {"steps": steps, "decay": "cosine", "warmup": min(20, steps // 10)}
    schedule["precision"] = "bfloat16" if torch.cuda.is_available() else "float32"
    rates = {"lr": factor * recipe.training.lr, "ssm_lr": factor * recipe.training.ssm_lr}
    return model.to(device()), dataclasses.replace(recipe.training, seed=seed, **schedule, **rates)


def learn(
    recipe: Recipe,
    data: list[torch.Tensor],
    steps: int,
    factor: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> Autoregressive:
    """A model that is prepared so, and trained."""
    model, config = prepared(recipe, steps, factor, seed)
    train(model, data, config, on_step=on_step, progress=False)
    return model


def bits(model: Autoregressive, clips: list[torch.Tensor]) -> torch.Tensor:
    """Bits per sample of each clip, in pieces that leave room for 65,536 logits a sample: 1 GiB."""
    return clip_bits(model, clips, batch_size=8, frame=512)


def tune(
    recipe: Recipe, data: list[torch.Tensor], valid: list[torch.Tensor], steps: int, factors: list[float]
) -> tuple[float, dict[float, float]]:
    """The factor that brings the fewest validation bits in so many steps, and the bits of each that was
    tried: of none, where there is no choice."""
    if len(factors) == 1:
        return factors[0], {}
    tried = {factor: float(bits(learn(recipe, data, steps, factor, 0), valid).mean()) for factor in factors}
    return min(tried, key=tried.__getitem__), tried


def working(models: dict[str, Recipe], corpus: Corpus, parts: Parts) -> dict[str, Recipe]:
    """The models that can be trained and drawn from at all, so that one that cannot costs no other its
    time."""
    for name, recipe in models.items():
        with parts.of(name):
            data = pieces(corpus["train"], recipe.length)[: 2 * recipe.training.batch_size]
            learn(recipe, data, 2, 1.0, seed=0).generate(16)
    return {name: recipe for name, recipe in models.items() if name not in parts.failed}


def seconds_per_step(models: dict[str, Recipe], corpus: Corpus, rounds: int = 3) -> dict[str, list[float]]:
    """Training steps timed in turn, so that a busy machine treats all alike; the first of each warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, recipe in models.items():
            data = pieces(corpus["train"], recipe.length)[: 2 * recipe.training.batch_size]
            done: list[float] = []
            learn(recipe, data, 5, 1.0, seed=0, on_step=lambda *_: done.append(now()))  # noqa: B023
            seconds[name].append((done[-1] - done[0]) / (len(done) - 1))
    return seconds


def samples_per_second(
    models: dict[str, Recipe], rounds: int = 3, batches: tuple[int, ...] = BATCHES
) -> dict[str, dict[str, float]]:
    """Generated samples per second and batch, the models in turn; the best of the rounds."""
    best = {name: {str(batch): 0.0 for batch in batches} for name in models}
    for _ in range(rounds):
        for name, recipe in models.items():
            model = recipe.build(0).to(device())
            for batch in batches:
                model.generate(16, batch)
                steps = max(32, 256 // batch)
                before = now()
                model.generate(steps, batch)
                best[name][str(batch)] = max(best[name][str(batch)], steps * batch / (now() - before))
    return best


def planned(
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    valid: Excerpts,
    options: argparse.Namespace,
    step_seconds: list[float],
) -> dict[str, Any]:
    """How a model is to be trained: for as many steps as fit, at the best learning rate of a quarter of
    them."""
    data = pieces(corpus["train"], recipe.length)
    steps = max(4, int(options.seconds / min(step_seconds)))
    factor, tried = tune(recipe, data, valid.clips, steps // 4, options.factors)
    print(name, steps, "steps;", tried, flush=True)
    return {
        "parameters": sum(p.numel() for p in recipe.build(0).parameters()),
        "validation_bits_by_factor": tried,
        "factor": factor,
        "steps": steps,
        "samples_per_step": recipe.samples_per_step,
        "seconds_per_step": step_seconds,
    }


def contend(
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    test: Excerpts,
    options: argparse.Namespace,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Train as planned from every seed, judge, draw: what the test says of one model."""
    data = pieces(corpus["train"], recipe.length)
    runs, draws = [], []
    for seed in range(options.seeds):
        model = learn(recipe, data, plan["steps"], plan["factor"], seed)
        runs.append(verdict(bits(model, test.clips), test))
        print(name, seed, runs[-1], flush=True)
        if seed == 0:
            draws = draw(model, f"{stem(options)}_{name}", options.sample_rate)
    return {"test_bits": runs, "clips": draws}


def earlier(path: Path | None) -> tuple[dict[str, dict[str, Any]], str | None]:
    """What an earlier result knows of each model (how it was trained, and its speed, which are taken as they
    are in place of being measured), and when it was made."""
    if path is None:
        return {}, None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["figures"]["models"], result["config"].get("planned", result["date"])


def main() -> None:
    """Time, tune, train, judge, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--seconds", type=float, default=80.0, help="training time of a run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, for a GPU")
    parser.add_argument("--only", nargs="+", help="some of the models")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="learning rates")
    parser.add_argument("--label", help="goes into the name of the result, to keep it beside others")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--like", type=Path, help="an earlier result: its steps, learning rates and speeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = FULL if options.full else SMALL
    if options.only:
        models = {name: models[name] for name in options.only}
    with Parts() as parts:
        compete(models, options, parts)


def compete(models: dict[str, Recipe], options: argparse.Namespace, parts: Parts) -> None:
    """All of it; what there is is written after each model."""
    quantizer = next(iter(models.values())).quantizer
    corpus = load(options.folder, options.sample_rate, quantizer)
    judged = {split: excerpts(corpus[split], options.sample_rate, number) for split, number in JUDGED.items()}
    plans, planned_on = earlier(options.like)
    figures: dict[str, dict[str, Any]] = {}
    new = working({name: recipe for name, recipe in models.items() if name not in plans}, corpus, parts)
    step_seconds, speeds = seconds_per_step(new, corpus), samples_per_second(new)
    for name in [name for name in models if name in plans or name in new]:
        with parts.of(name):
            recipe = models[name]
            if name in new:
                plans[name] = planned(name, recipe, corpus, judged["valid"], options, step_seconds[name])
                plans[name]["generated_samples_per_second"] = speeds[name]
            figures[name] = plans[name] | contend(name, recipe, corpus, judged["test"], options, plans[name])
            record(models, figures, planned_on, corpus, judged["test"], options)


def record(
    models: dict[str, Recipe],
    figures: dict[str, dict[str, Any]],
    planned_on: str | None,
    corpus: Corpus,
    test: Excerpts,
    options: argparse.Namespace,
) -> None:
    """Write the result."""
    save_result(
        stem(options),
        question="SaShiMi against WaveNet, SampleRNN and a flat S4 after equal training time",
        config={
            "seconds": options.seconds,
            "sample_rate": options.sample_rate,
            "size": "paper" if options.full else "small",
            "recipes": {name: dataclasses.asdict(recipe) for name, recipe in models.items()},
            "planned": planned_on or datetime.date.today().isoformat(),
        },
        figures={
            "models": figures,
            "bigram_bits": bigram_bits(corpus["train"], test.clips),
            "test_samples": sum(map(len, test.clips)),
        },
        units={
            "test_bits": f"{UNIT}, for each seed",
            "seconds_per_step": "seconds of one CPU thread, or of the wall on a GPU, one entry a round",
            "planned": "when steps, learning rates and speeds were measured",
        },
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of at most 1 s of held-out recordings, 8-bit mu-law",
    )


def stem(options: argparse.Namespace) -> str:
    """What the files of a run are called."""
    parts = ["autoregressive", options.folder.name, "full" if options.full else None, options.label]
    return "_".join(filter(None, parts))


def draw(model: Autoregressive, name: str, sample_rate: int) -> list[str]:
    """Write the first `CLIPS` draws from silence, two seconds each, not chosen; returns the files' names."""
    clips = model.quantizer.decode(model.generate(2 * sample_rate, CLIPS, seed=0).cpu())
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = [f"{name}_{number}.flac".replace(", ", "_").replace(" ", "_") for number in range(CLIPS)]
    for clip, file in zip(clips, names, strict=True):
        write(RESULTS / file, clip, sample_rate)
    return names


if __name__ == "__main__":
    main()
