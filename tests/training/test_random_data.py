"""Datasets that draw random numbers: runs repeat and resume; the caller's random state is preserved."""

import random
import time

import numpy as np
import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training.batches import DataStream, load_batch
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import DistributedContext
from sashimi_lib.training.trainer import train
from tests.training.backbones import DropoutEmbedding

CONFIG = TrainingConfig(steps=9, batch_size=2, checkpoint_every=4)
DRAWS = {
    "torch": lambda: int(torch.randint(256, ())),
    "numpy": lambda: int(np.random.randint(256)),  # noqa: NPY002
    "python": lambda: random.randrange(256),
}


class Augmented:
    """Random sequences, optionally with random reading times."""

    def __init__(self, draw, slow=False):
        self.draw, self.slow, self.timing = draw, slow, random.Random()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if self.slow:
            time.sleep(self.timing.uniform(0, 0.02))
        return torch.tensor([index, *(self.draw() for _ in range(11))])


def new_model():
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=4, n_layers=1)))
    model.embedding = DropoutEmbedding(model.embedding)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_runs_repeat_for_any_reading_time(draw):
    quick = train(new_model(), Augmented(draw), CONFIG, progress=False)
    for seed in range(2):
        random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        assert train(new_model(), Augmented(draw, slow=True), CONFIG, progress=False) == quick


@pytest.mark.slow
@pytest.mark.parametrize("tbptt_length", [None, 5])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_resumed_run_reads_the_same_data(draw, tbptt_length, tmp_path):
    config = TrainingConfig(steps=9, batch_size=2, checkpoint_every=4, tbptt_length=tbptt_length)

    def power_cut(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    whole = train(new_model(), Augmented(draw), config, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(), Augmented(draw), config, tmp_path / "run.pt", on_step=power_cut, progress=False)
    assert train(new_model(), Augmented(draw), config, tmp_path / "run.pt", progress=False) == whole


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_examples_differ_by_position_and_not_by_the_number_of_processes(draw):
    data, config = Augmented(draw), TrainingConfig(batch_size=4)
    alone = torch.stack([item for index in range(5) for item in load_batch(data, config, index)])
    assert len(alone.unique(dim=0)) == 20  # each of the five sequences four times
    shared = [
        item
        for index in range(5)
        for rank in (0, 1)
        for item in load_batch(data, config, index, DistributedContext(rank, 2))
    ]
    assert torch.equal(torch.stack(shared), alone)


@pytest.mark.parametrize("prefetch", [False, True])
def test_reading_leaves_the_random_numbers_of_the_step(prefetch):
    stream = DataStream(Augmented(DRAWS["torch"]), CONFIG, 128)
    next(stream)
    torch.manual_seed(3)
    if prefetch:
        stream.prefetch()
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))


@pytest.mark.usefixtures("shapes_unchecked")  # the checks of containers draw Python's random numbers
def test_training_preserves_the_random_state_of_the_caller(tmp_path):
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

    model, before = new_model(), state()
    data = torch.randint(256, (4, 12), generator=torch.Generator())
    train(model, data, CONFIG, tmp_path / "run.pt", valid=data, progress=False)
    assert state() == before
    with pytest.raises(ZeroDivisionError):
        train(new_model(), data, CONFIG, on_step=lambda *_: 1 / 0, progress=False)
    assert state()[1:] == before[1:]
