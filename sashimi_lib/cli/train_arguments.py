"""The arguments of ``sashimi train``: one subcommand a recipe, whose values are the defaults."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union, cast

import torch
import tyro

from sashimi_lib.cli.arguments import CorpusName, Device, default_is
from sashimi_lib.data.corpora import CORPORA
from sashimi_lib.diffusion.model import DiffusionConfig
from sashimi_lib.models.audio_lm import ModelConfig
from sashimi_lib.ssm.precision import cpu_has_bfloat16
from sashimi_lib.training import recipes
from sashimi_lib.training.config import Precision, TrainingConfig
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig
from sashimi_lib.training.recipes import DiffusionRecipe, Recipe

MY_WAVS = "my-wavs"
ABOUT = f"""Train a model, evaluate it on held-out recordings, and save it.

{MY_WAVS} needs only --data, a folder of three or more recordings; the other recipes are the experiments of
the paper and of this book. sashimi train RECIPE --help shows all options.

The run is kept in --out. After Ctrl-C (exit code 130), SIGTERM (143) or SIGHUP (129) the current step
finishes and a checkpoint is written; the same command resumes from it. A second Ctrl-C does not wait.

More --steps continue a run, --from starts a new one from a trained model.

On several GPUs: torchrun --nproc-per-node 8 -m sashimi_lib train RECIPE ..., where --batch-size is the global
batch size. A run may resume with another number of processes."""


@dataclass(frozen=True)
class TrainCommand:
    """One run: a recipe, what was changed of it, its recordings and its folder."""

    recipe: tyro.conf.Suppress[str]
    data: Path
    """Folder of recordings; split 88/6/6 % by file unless it contains train/, valid/ and test/."""
    model: tyro.conf.AvoidSubcommands[ModelConfig | DiffusionConfig]
    """Architecture of the model."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig]
    """Optimization, validation and checkpoints."""
    execution: tyro.conf.OmitArgPrefixes[ExecutionConfig]
    """Memory and time of a step; results change by rounding alone."""
    length: int
    """Length of a training sequence in samples."""
    sample_rate: int | None
    """Sample rate in Hz; None: that of most recordings, at most 16000."""
    corpus: CorpusName
    """What DATA holds: a folder of your own recordings, or a corpus from sashimi data fetch."""
    valid_seconds: float | None
    """Seconds of held-out sound of a validation, taken evenly from all of it; None: all."""
    out: Annotated[Path | None, default_is("runs/RECIPE")] = None
    """Folder of the run, for its checkpoint run.pt and its model.safetensors."""
    device: Device = "auto"
    """Device to compute on; auto is the GPU if there is one."""
    begin: Annotated[str | None, tyro.conf.arg(name="from", metavar="MODEL")] = None
    """Fine-tune: start from a trained model of this architecture, a bundled one or a file."""
    tensorboard: bool = False
    """Write curves and generated clips for TensorBoard (needs pip install "sashimi_lib[train]")."""


def available_recipes(gpu: bool) -> dict[str, Recipe | DiffusionRecipe]:
    """The recipes by name; for your own recordings an hour of a CPU core, or the paper's model on a GPU."""
    precision: Precision = "bfloat16" if cpu_has_bfloat16() else "float32"
    small = recipes.HOUR_SASHIMI
    small = replace(small, training=replace(small.training, precision=precision))
    large = replace(
        recipes.YOUTUBEMIX_SASHIMI_8,
        length=32_768,
        training=TrainingConfig(steps=50_000, batch_size=4, warmup=500, decay="cosine", precision="tf32"),
    )
    return {MY_WAVS: large if gpu else small, **recipes.RECIPES}


def about(name: str, recipe: Recipe | DiffusionRecipe) -> str:
    """A recipe in a line.

    >>> about("small_sashimi", recipes.SMALL_SASHIMI)
    'SaShiMi, 16,000 Hz, 1,000 steps of 2 x 4,096 samples'
    """
    backbone = recipe.config.backbone if isinstance(recipe, DiffusionRecipe) else recipe.backbone
    kind = type(backbone).__name__.removesuffix("Config")
    what = f"{kind}, diffusion" if isinstance(recipe, DiffusionRecipe) else kind
    of = "for recordings of your own" if name == MY_WAVS else f"{recipe.sample_rate:,} Hz"
    training = recipe.training
    return f"{what}, {of}, {training.steps:,} steps of {training.batch_size} x {recipe.length:,} samples"


def parse(words: Sequence[str]) -> TrainCommand:
    """The command that the words after ``train`` ask for; wrong usage exits with 2."""
    cpu = ("--device", "cpu") in pairwise(words) or "--device=cpu" in words  # defaults depend on the device
    kinds: Any = tuple(
        Annotated[
            Any,
            tyro.conf.subcommand(name, description=about(name, recipe), constructor=_command(name, recipe)),
        ]
        for name, recipe in available_recipes(gpu=torch.cuda.is_available() and not cpu).items()
    )
    return tyro.cli(Union[kinds], prog="sashimi train", description=ABOUT, args=words)  # noqa: UP007


def _command(name: str, recipe: Recipe | DiffusionRecipe) -> Callable[..., TrainCommand]:
    """`TrainCommand` with the defaults of a recipe: for all options but ``data``."""
    corpus = name.split("_")[0]
    return partial(
        TrainCommand,
        recipe=name,
        model=recipe.config if isinstance(recipe, DiffusionRecipe) else recipe.backbone,
        training=recipe.training,
        execution=DEFAULT_EXECUTION,
        length=recipe.length,
        sample_rate=None if name == MY_WAVS else recipe.sample_rate,
        corpus=cast(CorpusName, corpus) if corpus in CORPORA else "folder",
        valid_seconds=20.0 if name == MY_WAVS else None,
    )
