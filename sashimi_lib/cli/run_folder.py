"""The folder of a run: its settings, which must stay the same when it resumes, and the card of its model."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sashimi_lib.cli.recordings import samples_of
from sashimi_lib.cli.train_arguments import TrainCommand
from sashimi_lib.data.corpora import CORPORA
from sashimi_lib.data.sequences import SequenceDataset
from sashimi_lib.data.split import FileLists, describe_changes
from sashimi_lib.pretrained import ModelCard
from sashimi_lib.storage.atomic import atomic_write
from sashimi_lib.training.checkpoint import checkpoint_exists
from sashimi_lib.training.config import describe_differences
from sashimi_lib.training.train_state import History


def settings_of(
    command: TrainCommand, sample_rate: int, parts: Mapping[str, SequenceDataset], files: FileLists | None
) -> dict[str, Any]:
    """All that must be the same when a run resumes, as JSON has it."""
    return {
        "recipe": command.recipe,
        "model": repr(command.model),
        "length": command.length,
        "sample_rate": sample_rate,
        "corpus": command.corpus,
        "valid_seconds": command.valid_seconds,
        "from": command.begin,
        **{f"samples of {part}": samples_of(data) for part, data in parts.items()},
        **asdict(command.training),
        "recordings": None if files is None else files.as_json(),
    }


def save_settings(checkpoint: Path, settings: dict[str, Any], free: Collection[str] = ()) -> None:
    """Write the settings of a run beside its checkpoint, as ``run.json``. Raises ValueError, naming the
    differences, where there is a checkpoint with other settings; those that are ``free`` may differ."""
    path = checkpoint.with_name("run.json")
    if path.exists() and checkpoint_exists(checkpoint):
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it to resume without a check") from error
        other = describe_differences(there, settings, free)
        if other:
            raise ValueError(
                f"{checkpoint} belongs to a run with other settings: {'; '.join(other)}. Use the same "
                "settings to resume, or another --out to start a new run"
            )
    with atomic_write(path) as file:
        file.write(json.dumps(settings, indent=1).encode() + b"\n")


def check_recordings(checkpoint: Path, files: FileLists | None) -> None:
    """Raise ValueError, naming them, where a run would resume with other recordings than ``run.json`` has."""
    path = checkpoint.with_name("run.json")
    if files is None or not path.exists() or not checkpoint_exists(checkpoint):
        return
    try:
        there = json.loads(path.read_text()).get("recordings")
    except ValueError:
        return  # damaged, which `save_settings` reports
    if there != files.as_json():
        what = "its own are not listed" if there is None else describe_changes(there, files.as_json())
        raise ValueError(
            f"{checkpoint} belongs to a run with other recordings: {what}. Use the same ones to resume, or "
            "another --out to start a new run"
        )


def card_of(
    command: TrainCommand, history: History, base: ModelCard | None, files: FileLists | None
) -> ModelCard:
    """The card of a model that was trained so far, from the weights of ``base`` on if there is one."""
    steps = history.best[0] if history.valid else len(history.loss)  # whose weights the model has
    corpus = CORPORA[command.corpus]
    data, credit = f"{command.data.resolve().name}: {corpus.description}", corpus.license
    if base is not None:
        data += f" (fine-tuned from {base.name}: {base.data})"
        credit += f" (fine-tuned from: {base.credit})"
    return ModelCard(
        command.recipe,
        data=data,
        credit=credit,
        steps=steps,
        samples=steps * command.training.samples_per_step(command.length),
        recordings=files,
    )
