"""What does a training step of the paper's models cost at the least: operations, bytes, memory; and on other
machines seconds, hours and dollars?

    python benchmarks/bounds.py     a minute and a half on a CPU; the same figures on any machine

Nothing is measured: operators are counted, and set against what the makers of GPUs say of theirs
(`roofline`). What steps do take, `throughput` measures. Writes ``book/results/bounds.json``.
"""

import dataclasses
from typing import Any

from devices import DEVICES, PRICES, PRICES_OF
from result import save_result
from roofline import computed, counted
from throughput import MODELS

from sashimi_lib.training.recipes import Recipe


def figures_of(models: dict[str, Recipe]) -> dict[str, Any]:
    """Counted of each model, and computed of each on each machine."""
    return {
        "counted": {name: counted(recipe) for name, recipe in models.items()},
        "computed": {
            name: {model: computed(recipe, machine) for model, recipe in models.items()}
            for name, machine in DEVICES.items()
        },
        "devices": {name: dataclasses.asdict(machine) for name, machine in DEVICES.items()},
    }


def main() -> None:
    """Compute, write."""
    save_result(
        "bounds",
        question="The least time, memory and money of a training step of the paper's models",
        config={
            "paper_steps": {name: recipe.training.steps for name, recipe in MODELS.items()},
            "prices": {"source": PRICES, "date": PRICES_OF},
        },
        figures=figures_of(MODELS),
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
