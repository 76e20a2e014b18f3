"""16-bit sound: WaveRNN beside SaShiMi with each of three heads, and beside SaShiMi at 8 bits.

    python benchmarks/sixteen_bits.py runs/data/digits_jackson --sample-rate 8000
    python benchmarks/sixteen_bits.py runs/data/digits_jackson --sample-rate 8000 --full

The folder holds ``train``, ``valid`` and ``test``, whole recordings in each. Every model trains for the same
time, on one CPU thread; its learning rate is the best of three by the validation recordings in a quarter of
that time. All take the same number of samples a step, and few: one softmax over all 65,536 values needs 256
KiB for the logits of a sample, and several times that to learn from them. A step of 2,048 samples fits 6 GB
with it. SaShiMi takes them as one sequence; a recurrent network as pieces of eight, its state carried on.

Bits per 16-bit sample and per 8-bit sample are not comparable. So each 16-bit model is also asked for the
coarse bytes alone, and for the mu-law codes that its samples fall in (`sashimi_lib.evaluation.coarsen`),
having heard 16 bits: the figure to set beside the model of 8 bits. With ``--full`` the paper's sizes, on a
GPU. About half an hour on one core. Writes ``book/results/sixteen_bits_FOLDER.json``, after each model what
there is. ``--like RESULT`` as in the comparison at 8 bits.
"""

import argparse
import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from autoregressive import (
    bits,
    device,
    earlier,
    learn,
    planned,
    samples_per_second,
    seconds_per_step,
    working,
)
from corpus import Corpus, Excerpts, excerpts, load, pieces
from result import Parts, save_result
from speed import peak_mebibytes
from verdict import UNIT, verdict

from sashimi_lib.audio.quantizers import CoarseFine, Quantizer
from sashimi_lib.evaluation.coarsen import coarse_bits, mulaw_bits
from sashimi_lib.models import build
from sashimi_lib.models.audio_lm import AudioLM, Autoregressive
from sashimi_lib.models.heads import Head, JointSoftmax, Logistics
from sashimi_lib.training import recipes
from sashimi_lib.training.recipes import Recipe

JUDGED = {"valid": 30_000, "test": 100_000}  # samples at most, in excerpts of a second or less
ROUNDS = 3  # of timing
REFERENCE = "SaShiMi, dual softmax"  # whose step the others' are compared with


@dataclasses.dataclass(frozen=True)
class Headed(Recipe):
    """A recipe with another head than the backbone's own."""

    head: type[Head]

    def build(self, seed: int) -> AudioLM:
        """A new model; the seed says which."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone = build(self.backbone)
            return AudioLM(self.quantizer, backbone, self.head(backbone.d_model))


def contenders(
    sashimi: Recipe, wavernn: Recipe, batch_size: int, length: int, sequences: int
) -> dict[str, Recipe]:
    """All models, with as many samples a step: whole sequences, or a piece each of so many ``sequences``."""
    eight = dataclasses.replace(
        sashimi, length=length, training=dataclasses.replace(sashimi.training, batch_size=batch_size)
    )
    sixteen = dataclasses.replace(eight, quantizer=CoarseFine())
    carried = dataclasses.replace(
        wavernn.training, batch_size=sequences, tbptt_length=batch_size * length // sequences
    )
    return {
        "WaveRNN": dataclasses.replace(wavernn, length=length, training=carried),
        REFERENCE: sixteen,
        "SaShiMi, joint softmax": Headed(**vars(sixteen), head=JointSoftmax),
        "SaShiMi, logistics": Headed(**vars(sixteen), head=Logistics),
        "SaShiMi, 8 bits": eight,
    }


SMALL = contenders(recipes.SMALL_SASHIMI, recipes.WAVERNN_224, batch_size=1, length=2_048, sequences=8)
FULL = contenders(recipes.YOUTUBEMIX_SASHIMI_8, recipes.WAVERNN_896, batch_size=4, length=8_192, sequences=32)


def answers(
    model: Autoregressive,
    clips: list[torch.Tensor],
    question: Callable[[Autoregressive, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Bits per sample of each clip for a coarser question."""
    return torch.stack(
        [-question(model, clip[None].to(model.device)).double().mean().cpu() for clip in clips]
    )


def judge(model: Autoregressive, test: Excerpts) -> dict[str, dict[str, Any]]:
    """All that can be asked of a model, each with its interval; ``mulaw_bits`` of a model of either depth."""
    if isinstance(model.quantizer, CoarseFine):
        asked = {
            "sixteen_bits": bits(model, test.clips),
            "coarse_bits": answers(model, test.clips, coarse_bits),
            "mulaw_bits": answers(model, test.clips, mulaw_bits),
        }
    else:
        asked = {"mulaw_bits": bits(model, test.clips)}
    return {name: verdict(given, test) for name, given in asked.items()}


def contend(
    name: str, recipe: Recipe, corpus: Corpus, test: Excerpts, seeds: int, plan: dict[str, Any]
) -> dict[str, Any]:
    """Train as planned from every seed, and judge: what the test says of one model."""
    data, runs = pieces(corpus["train"], recipe.length), []
    for seed in range(seeds):
        model = learn(recipe, data, plan["steps"], plan["factor"], seed)
        runs.append(judge(model, test))
        print(name, seed, runs[-1], flush=True)
    return {"test_bits": {question: [run[question] for run in runs] for question in runs[0]}}


def describe(recipe: Recipe) -> dict[str, object]:
    """A recipe as JSON can hold it."""
    head = {"head": recipe.head.__name__} if isinstance(recipe, Headed) else {}
    return dataclasses.asdict(recipe) | {"quantizer": str(recipe.quantizer)} | head


def main() -> None:
    """Time, tune, train, judge, generate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of a run")
    parser.add_argument("--full", action="store_true", help="the paper's sizes, for a GPU")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="learning rates")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each model")
    parser.add_argument("--like", type=Path, help="an earlier result: its steps, learning rates and speeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Parts() as parts:
        compete(FULL if options.full else SMALL, options, parts)


def compete(models: dict[str, Recipe], options: argparse.Namespace, parts: Parts) -> None:
    """All of it; what there is is written after each model."""
    corpora = {
        quantizer: load(options.folder, options.sample_rate, quantizer)
        for quantizer in {recipe.quantizer for recipe in models.values()}
    }
    judged = {
        quantizer: {
            split: excerpts(corpus[split], options.sample_rate, number) for split, number in JUDGED.items()
        }
        for quantizer, corpus in corpora.items()
    }
    plans, planned_on = earlier(options.like)
    measured = measure({name: models[name] for name in models if name not in plans}, corpora, parts)
    figures: dict[str, dict[str, Any]] = {}
    for name in [name for name in models if name in plans or name in measured]:
        with parts.of(name):
            recipe = models[name]
            corpus, heard = corpora[recipe.quantizer], judged[recipe.quantizer]
            if name in measured:
                seconds = measured[name]["seconds_per_step"]
                plan = planned(name, recipe, corpus, heard["valid"], options, seconds)
                plans[name] = plan | measured[name]
            figures[name] = plans[name] | contend(
                name, recipe, corpus, heard["test"], options.seeds, plans[name]
            )
            record(models, figures, planned_on, heard["test"], options)


def measure(
    models: dict[str, Recipe], corpora: dict[Quantizer, Corpus], parts: Parts
) -> dict[str, dict[str, Any]]:
    """What a step and a sample of each model cost, in turn; of those that work."""
    new: dict[str, Recipe] = {}
    for name, recipe in models.items():
        new |= working({name: recipe}, corpora[recipe.quantizer], parts)
    seconds: dict[str, list[float]] = {name: [] for name in new}
    for _ in range(ROUNDS):
        for name, recipe in new.items():
            seconds[name] += seconds_per_step({name: recipe}, corpora[recipe.quantizer], 1)[name]
    speeds = samples_per_second(new, ROUNDS, batches=(1,))
    return {
        name: {
            "seconds_per_step": seconds[name],
            "step_ratios": [a / b for a, b in zip(seconds[name], seconds.get(REFERENCE, []), strict=False)],
            "peak_mebibytes": peak_mebibytes(recipe, corpora[recipe.quantizer]),
            "generated_samples_per_second": speeds[name]["1"],
        }
        for name, recipe in new.items()
    }


def record(
    models: dict[str, Recipe],
    figures: dict[str, dict[str, Any]],
    planned_on: str | None,
    test: Excerpts,
    options: argparse.Namespace,
) -> None:
    """Write the result."""
    save_result(
        "_".join(filter(None, ["sixteen_bits", options.folder.name, "full" if options.full else None])),
        question="16-bit models after equal training time, and beside one of 8 bits",
        config={
            "seconds": options.seconds,
            "sample_rate": options.sample_rate,
            "size": "paper" if options.full else "small",
            "device": device().type,
            "recipes": {name: describe(recipe) for name, recipe in models.items()},
            "planned": planned_on or datetime.date.today().isoformat(),
        },
        figures={"models": figures, "test_samples": sum(map(len, test.clips))},
        units={
            "sixteen_bits": f"{UNIT}, for each seed; a sample has 16 bits",
            "coarse_bits": "the same of coarse bytes, given the past in 16 bits",
            "mulaw_bits": "the same of 8-bit mu-law codes; of a 16-bit model, given the past in 16 bits",
            "seconds_per_step": "seconds of one CPU thread, or of the wall on a GPU, one entry a round",
            "step_ratios": f"seconds per step over those of {REFERENCE} in the same round",
            "peak_mebibytes": "MiB that a model and its training take",
            "generated_samples_per_second": "of one sequence, the best of the rounds; a head of logistics is "
            "drawn from by way of all 65,536 values",
            "planned": "when steps, learning rates, speeds and memory were measured",
        },
        repeats=options.seeds,
        seed=0,
        data=f"{options.folder.name}: excerpts of at most 1 s of held-out recordings",
    )


if __name__ == "__main__":
    main()
