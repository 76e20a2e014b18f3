"""What does a kernel cost? One training step of a bank of state spaces against its length, and the slow twins
beside.

A step: 64 channels, N = 64, batch 1; kernel, FFT convolution, backward to every parameter. The methods take
turns in one run, so that a busy machine slows them alike. Then one SaShiMi-8 training step at 16,000 samples,
and where its time goes.

    python benchmarks/kernels.py            about 10 minutes on 2 cores
    python benchmarks/kernels.py --quick    under a minute, to see that it runs; writes nothing
"""

import argparse
import ctypes.util
import itertools
from collections.abc import Callable
from math import log

import torch
from result import save_result
from shares import sashimi_shares
from timing import interleaved
from torch import Tensor

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.convolution import causal_conv
from sashimi_lib.ssm.kernels import kernel, kernel_cauchy, kernel_vandermonde
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace

SEED, H, REPEATS = 0, 64, 9
LENGTHS = [1024, 2048, 4096, 8192, 16000, 32768, 65536, 131072]
NAIVE_LIMIT = 16000  # the tables of the twins hold 1 to 2 GB at this length, and grow with it
SLOW = {Form.HURWITZ: "cauchy", Form.DIAGONAL: "vandermonde"}
SLOW_NAME = {"dplr": "cauchy", "diagonal": "vandermonde"}


def fast_kernel(ssm: StateSpace, length: int) -> Tensor:
    """What the layer does: powers in float64, tables in float32."""
    return kernel(ssm.recurrence(), length, torch.float32)


def slow_kernel(ssm: StateSpace, length: int) -> Tensor:
    """The textbook twin in single precision. The parameter C stands for the truncated C, as in the published
    code."""
    system = ssm.system()
    if ssm.config.form is not Form.DIAGONAL:
        single = (x.to(torch.complex64) for x in system[:-1])
        return kernel_cauchy(type(system)(*single, system.dt.float()), length)
    A_bar = torch.exp(system.dt[:, None] * system.Lambda)
    B_bar = (A_bar - 1) / system.Lambda * system.B
    return kernel_vandermonde(*(x.to(torch.complex64) for x in (A_bar, B_bar, system.C)), length)


def training_step(form: Form, make: Callable[[StateSpace, int], Tensor], length: int) -> Callable[[], None]:
    """One forward and backward pass of a fresh bank, ready to be timed."""
    torch.manual_seed(SEED)
    ssm = StateSpace(H, SSMConfig(form=form, init="lin" if form is Form.DIAGONAL else "legs"))
    u, target = torch.randn(2, 1, H, length)

    def step() -> None:
        ssm.zero_grad()
        y = causal_conv(u, make(ssm, length), ssm.D)
        (y - target).square().mean().backward()

    return step


def peak_mb(step: Callable[[], None]) -> float:
    """The most memory that tensors of one step hold at once, by the profiler's record of every allocation."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.grad_accumulation(
        event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
    )
    return round(max(held) / 2**20, 1)


def keep_memory() -> None:
    """Have glibc reuse the memory of large tensors, as a long training run's allocator does.

    By default each is a fresh mapping that the system fills with zeros, page by page, and beyond 30,000
    samples that takes longer than the FFTs. Elsewhere than on glibc nothing changes.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    if mallopt:
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
        kept = all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 2**30)])
        print(f"memory of large tensors is kept: {kept}")


def lengths_table(lengths: list[int], repeats: int) -> list[dict[str, object]]:
    """Every form, method and length, shortest first."""
    rows: list[dict[str, object]] = []
    for length in lengths:
        for form, slow in SLOW.items():
            steps = {"kernel": training_step(form, fast_kernel, length)}
            if length <= NAIVE_LIMIT:
                steps[slow] = training_step(form, slow_kernel, length)
            name = "diagonal" if form is Form.DIAGONAL else "dplr"
            for method, seconds in interleaved(steps, repeats).items():
                memory = peak_mb(steps[method])
                rows.append(
                    {"form": name, "method": method, "length": length, "seconds": seconds, "peak_mb": memory}
                )
                print(rows[-1], flush=True)
    return rows


def step_shares(length: int, n_layers: int, repeats: int) -> dict[str, float]:
    """Where a whole training step of SaShiMi goes."""
    torch.manual_seed(SEED)
    model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(n_layers=n_layers)))
    return sashimi_shares(model, torch.randint(0, 256, (1, length)), repeats)


def times_faster(rows: list[dict[str, object]], form: str, length: int = 16000) -> float:
    """The twin's seconds over the kernel's."""
    seconds = {
        row["method"]: float(row["seconds"]) for row in rows if (row["form"], row["length"]) == (form, length)
    }  # type: ignore
    return round(seconds[SLOW_NAME[form]] / seconds["kernel"], 1)


def growth(rows: list[dict[str, object]], form: str) -> float:
    """The kernel's seconds at 131,072 samples over those at 16,000."""
    seconds = {
        row["length"]: float(row["seconds"])  # type: ignore
        for row in rows
        if (row["form"], row["method"]) == (form, "kernel")
    }
    return round(seconds[131072] / seconds[16000], 2)


def summary(rows: list[dict[str, object]], kept: list[dict[str, object]]) -> dict[str, float]:
    """How much faster at 16,000 samples, and how time grows from there; with memory kept and without."""
    figures = {"L_log_L_growth_16000_to_131072": round(131072 * log(131072) / (16000 * log(16000)), 2)}
    for form in SLOW_NAME:
        figures[f"{form}_times_faster_at_16000"] = times_faster(rows, form)
        figures[f"{form}_times_faster_at_16000_memory_kept"] = times_faster(kept, form)
        figures[f"{form}_growth_16000_to_131072_memory_kept"] = growth(kept, form)
    return figures


def main() -> None:
    """Measure, and write ``book/results/kernels.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small lengths, one repeat, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # one core each: repeatable, and fair to both methods
    rows = lengths_table([1024, 2048] if quick else LENGTHS, 1 if quick else REPEATS)
    keep_memory()
    kept = lengths_table([1024] if quick else [16000, 131072], 1 if quick else REPEATS)
    step = step_shares(1600 if quick else 16000, 1 if quick else 8, 1 if quick else 3)
    print(step)
    if quick:
        return
    save_result(
        "kernels",
        question="time and memory of a training step against length: our kernels beside their textbook twins",
        config={
            "H": H,
            "N": 64,
            "batch": 1,
            "threads": 1,
            "naive_limit": NAIVE_LIMIT,
            "allocator": "glibc, memory kept",
        },
        figures={
            "rows": rows,
            "rows_memory_kept": kept,
            "summary": summary(rows, kept),
            "sashimi_8_step_at_16000": step,
        },
        units={
            "seconds": "s, median; the least, of a step of SaShiMi-8",
            "peak_mb": "MB that the tensors of a step hold at once",
            "share": "of the step's time",
        },
        repeats=REPEATS,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
