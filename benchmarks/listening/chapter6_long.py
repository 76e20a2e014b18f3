"""The small SaShiMi of the book, trained longer: what minutes more give.

    python -m benchmarks.listening.chapter6_long --steps 2000

The same model, data and initialization as in the book's live training, with more steps and segments twice as
long. Writes held-out bits and one clip of four seconds, the first sample from seed 0, to ``book/results/``.
"""

import argparse
import time

import torch

from benchmarks.lib.result import results_folder, save_result
from sashimi_lib.audio import rms_db, write
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data import bundled
from sashimi_lib.evaluation.likelihood import bigram_bits
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.s4 import SSMConfig
from sashimi_lib.training.init import init_ordered_embeddings
from sashimi_lib.training.trainer import TrainingConfig, train

LENGTH, SECONDS = 1024, 4
CLIP = "chapter6_long.flac"


def main() -> None:
    """Train, evaluate, generate one clip, write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    piano, quantizer = bundled.piano(), MuLaw()
    train_codes, test_codes = quantizer.encode(piano.train), quantizer.encode(piano.test)
    torch.manual_seed(0)
    config = SaShiMiConfig(d_model=32, n_layers=1, ff=4, ssm=SSMConfig(d_state=32))
    model = AudioLM(quantizer, SaShiMi(config))
    init_ordered_embeddings(model)
    training = TrainingConfig(steps=steps, batch_size=4, lr=0.008, ssm_lr=0.004, warmup=10, decay="cosine")
    start = time.process_time()
    losses = train(model, train_codes.view(-1, LENGTH), training).loss
    minutes = (time.process_time() - start) / 60
    with torch.no_grad():
        bits = -float(model.log_likelihood(test_codes[None]).mean())
    clip = quantizer.decode(model.generate(SECONDS * piano.sample_rate, seed=0)[0])
    results_folder().mkdir(parents=True, exist_ok=True)
    write(results_folder() / CLIP, clip, piano.sample_rate)
    save_result(
        "chapter6_long",
        question="The small SaShiMi of chapter 6 after longer training",
        config={"steps": steps, "batch_size": 4, "segment_length": LENGTH, "lr": 0.008, "ssm_lr": 0.004},
        figures={
            "held_out_bits": round(bits, 4),
            "bigram_bits": round(bigram_bits(train_codes, test_codes), 4),
            "training_bits_last_100_steps": round(sum(losses[-100:]) / 100, 4),
            "cpu_minutes": round(minutes, 1),
            "clip": CLIP,
            "clip_dbfs": round(rms_db(clip), 1),
        },
        units={"held_out_bits": "bits per sample", "clip_dbfs": "dB below full scale, RMS"},
        repeats=1,
        seed=0,
        data="bundled piano: 64 s for training, the last 16 s held out, 8-bit mu-law at 16 kHz",
    )


if __name__ == "__main__":
    main()
