"""Lower bounds of a training step of the paper's models: operations, memory traffic and peak memory; and on
several GPUs seconds, hours and dollars.

    python -m benchmarks.speed.bounds     a minute and a half on a CPU; the same figures on any machine

Nothing is timed: operators are counted, and compared with published peak rates of GPUs
(`benchmarks.lib.roofline`). `benchmarks.speed.throughput` measures real steps. Writes
``book/results/bounds.json``.
"""

import dataclasses
from argparse import ArgumentParser, RawTextHelpFormatter
from typing import Any

from benchmarks.lib.devices import DEVICES, PRICES, PRICES_OF
from benchmarks.lib.models import PAPER_MODELS
from benchmarks.lib.result import save_result
from benchmarks.lib.roofline import count_variants, lower_bounds
from sashimi_lib.training.recipes import Recipe


def figures_of(models: dict[str, Recipe]) -> dict[str, Any]:
    """Counts of each model, and its lower bounds on each machine."""
    return {
        "counted": {name: count_variants(recipe) for name, recipe in models.items()},
        "computed": {
            name: {model: lower_bounds(recipe, machine) for model, recipe in models.items()}
            for name, machine in DEVICES.items()
        },
        "devices": {name: dataclasses.asdict(machine) for name, machine in DEVICES.items()},
    }


def main() -> None:
    """Compute and write the result."""
    ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter).parse_args()
    save_result(
        "bounds",
        question="The least time, memory and money of a training step of the paper's models",
        config={
            "paper_steps": {name: recipe.training.steps for name, recipe in PAPER_MODELS.items()},
            "prices": {"source": PRICES, "date": PRICES_OF},
        },
        figures=figures_of(PAPER_MODELS),
        units={
            "counted": "a step at the paper's batch and segment; mebibytes of tensors",
            "computed": "least seconds of a step, by the roofline; hours and dollars of all steps",
        },
        repeats=1,
        seed=0,
        data="none: tensors without numbers",
    )


if __name__ == "__main__":
    main()
