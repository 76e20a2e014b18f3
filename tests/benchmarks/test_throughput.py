"""Operation counts agree with PyTorch's; failed jobs are recorded, and the others are measured."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lib import breakdown, devices, kernel_reuse, roofline
from benchmarks.speed import bounds, throughput
from sashimi_lib.models import SampleRNNConfig, SaShiMiConfig, WaveNetConfig
from sashimi_lib.ssm import s4
from sashimi_lib.training import recipes
from sashimi_lib.training.execution import ExecutionConfig
from sashimi_lib.training.optimizer import new_optimizer


@pytest.fixture
def tiny():
    def small(recipe, backbone, **training):
        training = dataclasses.replace(recipe.training, **training)
        return dataclasses.replace(recipe, backbone=backbone, length=256, training=training)

    wavenet = WaveNetConfig(stacks=1, layers=3, d_residual=8, d_dilation=8, d_skip=16, d_end=8, d_model=8)
    return {
        "SaShiMi": small(recipes.YOUTUBEMIX_SASHIMI_8, SaShiMiConfig(d_model=16, n_layers=1, pool=(4,))),
        "WaveNet": small(recipes.YOUTUBEMIX_WAVENET_1024, wavenet),
        "SampleRNN": small(
            recipes.YOUTUBEMIX_SAMPLERNN_3,
            SampleRNNConfig(d_hidden=8, d_embedding=4),
            batch_size=2,
            tbptt_length=64,
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SaShiMi", "WaveNet", "SampleRNN"])
def test_products_are_counted_as_pytorch_counts_them(tiny, name):
    recipe = tiny[name]
    model = recipe.build(0)
    codes = torch.randint(0, 256, (recipe.training.batch_size, recipe.training.tbptt_length or recipe.length))
    with FlopCounterMode(display=False) as theirs:
        cache = model.initial_cache(len(codes)) if recipe.training.tbptt_length else None
        model.loss(codes, cache)[0].mean().backward()
    ours = roofline.step_count(recipe)
    products = sum(operator.flops for operator in ours.operators if "fft" not in operator.name)
    assert products == theirs.get_total_flops()


def test_a_convolution_takes_six_real_ffts(tiny):
    count = roofline.step_count(tiny["SaShiMi"])
    ffts = [operator for operator in count.operators if "fft" in operator.name]
    layers = 2  # one in each tier
    assert len(ffts) == 6 * layers
    n = 512  # a fast length for twice 256 samples, 16 channels; the kernel's FFT and its gradient's are alike
    assert max(operator.flops for operator in ffts) == 16 * 2.5 * n * 9


def test_memory_is_counted_until_it_is_freed_and_views_have_none():
    with roofline.OperatorRecorder() as recorder:
        x = torch.ones(250)
        y = x * 2
        del x
        y.view(25, 10).mT.mul_(3)
    assert (recorder.allocated, recorder.peak) == (1000, 2000)
    assert [operator.name for operator in recorder.operators] == ["ones.default", "mul.Tensor", "mul_.Tensor"]
    assert [operator.bytes_moved for operator in recorder.operators] == [1000, 2000, 2000]


def test_counted_memory_is_that_of_real_tensors(tiny):
    recipe = tiny["SaShiMi"]
    model = recipe.build(0)
    codes = torch.zeros(1, recipe.length, dtype=torch.long)
    with roofline.OperatorRecorder() as real:
        for x in model.parameters():
            real.track(x)
        optimizer = new_optimizer(model, recipe.training)
        roofline.init_optimizer_state(model, optimizer)
        roofline.training_step(
            model, optimizer, codes, recipe.training, "float32", kernel_checkpointing=False
        )
    assert roofline.step_count(recipe).peak_bytes == pytest.approx(real.peak, rel=0.01)


@pytest.mark.slow
def test_recomputation_takes_less_memory_and_more_operations(tiny):
    count = roofline.step_count
    plain = count(tiny["SaShiMi"])
    again = count(tiny["SaShiMi"], execution=ExecutionConfig(activation_checkpointing=True))
    kernels_too = count(
        tiny["SaShiMi"], execution=ExecutionConfig(activation_checkpointing=True, kernel_checkpointing=True)
    )
    assert kernels_too.peak_bytes < 0.7 * plain.peak_bytes
    assert kernels_too.peak_bytes < again.peak_bytes < plain.peak_bytes
    assert plain.flops < again.flops < 1.1 * kernels_too.flops < 1.5 * plain.flops


def test_a_step_takes_the_longer_of_arithmetic_and_memory():
    product = roofline.Operator("mm.default", torch.float32, flops=100.0, bytes_moved=10)
    kernels = product._replace(name="bmm.default")
    sums = roofline.Operator("add.Tensor", torch.float32, flops=0.0, bytes_moved=10)
    peak = {"float32": 10.0, "tf32": 100.0}
    assert roofline.least_seconds([product, kernels, sums], peak, bandwidth=2.0) == 10 + 10 + 5
    assert roofline.least_seconds([product, kernels, sums], peak, 2.0, tf32=True) == 5 + 10 + 5


def test_devices_are_found_by_their_cuda_names():
    assert devices.find_device("NVIDIA A100-SXM4-40GB") is devices.DEVICES["A100 40 GB"]
    assert devices.find_device("NVIDIA A100-SXM4-80GB") is devices.DEVICES["A100 80 GB"]
    assert devices.find_device("NVIDIA H100 PCIe") is None  # another GPU under nearly the same name


def test_the_higher_rates_of_two_measurements_count():
    quiet = devices.Device({"float32": 3.0, "float64": 1.0}, 5.0, 8.0, None, "measured")
    busy = devices.Device({"float32": 2.0, "float64": 2.0}, 6.0, 8.0, None, "measured")
    both = devices.Device({"float32": 3.0, "float64": 2.0}, 6.0, 8.0, None, "measured")
    assert devices.best_of(quiet, busy) == both


def test_linear_layers_are_found_with_their_sizes(tiny):
    shapes = breakdown.linear_shapes(tiny["SaShiMi"].build(0), torch.zeros(2, 64, dtype=torch.long))
    assert shapes[0] == (2 * 16, 64, 32)  # the first pool, of 4 samples of 16 channels
    assert shapes[-1] == (2 * 64, 16, 256)  # the head
    assert len(shapes) == 2 + 2 * 3 + 1  # pools; two tiers, of 3 maps each; the head


def test_failed_jobs_are_recorded_and_the_others_are_measured(tiny, monkeypatch):

    def step_seconds(recipe, mode):
        if mode.precision == "float32":
            raise torch.cuda.OutOfMemoryError
        if mode.execution.compile:
            raise RuntimeError("cuDNN is not in the mood\nand here is a page of C++")
        return [2.0, 1.0, 4.0]

    monkeypatch.setattr(throughput, "step_seconds", step_seconds)
    small, large = throughput.StepMode("bfloat16"), throughput.StepMode()
    compiled = throughput.StepMode("bfloat16", ExecutionConfig(compile=True))
    jobs = [("SaShiMi", large), ("SaShiMi", compiled), ("SaShiMi", small)]
    written = []
    timings = throughput.time_jobs(tiny, jobs, float("inf"), lambda so_far: written.append(dict(so_far)))
    assert timings["SaShiMi", compiled].failed == "RuntimeError: cuDNN is not in the mood"
    assert [len(so_far) for so_far in written] == [
        1,
        2,
        3,
        3,
    ]  # no job that failed is tried again
    failed, made = (
        throughput.row(tiny["SaShiMi"], mode, timings["SaShiMi", mode], peak=1e9) for mode in (large, small)
    )
    assert failed["failed"] == "out of memory"
    assert failed["seconds_per_step"] == []
    assert failed["utilisation"] is None
    assert made["failed"] is None
    assert len(made["seconds_per_step"]) == 3 * throughput.ROUNDS
    assert made["samples_per_second"] == 256 / 1  # of the quickest step
    ways = [{"seconds_per_step": timing.seconds} for timing in timings.values()]
    ways.append({"seconds_per_step": [1.0, 2.0]})  # before time ran out
    assert throughput.fewest_steps({"SaShiMi": {"ways": ways}}) == 2
    late = throughput.time_jobs(tiny, jobs, deadline=0.0)
    assert throughput.row(tiny["SaShiMi"], small, late["SaShiMi", small], 1e9)["failed"] == "no time left"


def test_every_mode_is_measured_on_a_gpu_and_compilation_last(tiny):
    plain, compiled = throughput.jobs(tiny, gpu=True)
    measured = {(name, mode.precision) for name, mode in plain if not mode.execution.activation_checkpointing}
    assert len(measured) == len(plain) - 1 == len(tiny) * 3
    assert not any(mode.execution.compile for _, mode in plain)
    with_blocks = {*tiny} - {"SampleRNN"}
    assert {(name, mode.precision) for name, mode in compiled} == {
        (name, precision) for name, precision in measured if name in with_blocks
    }
    assert all(mode.execution.compile for _, mode in compiled)


@pytest.mark.slow
def test_a_small_run_measures_everything(tiny, tmp_path, monkeypatch):
    machine = throughput.Device({"float64": 1e10, "float32": 2e10, "bfloat16": 4e10}, 1e10, 1e9, None, "")
    modes = [
        throughput.StepMode(),
        throughput.StepMode("bfloat16", ExecutionConfig(activation_checkpointing=True)),
    ]
    threads = torch.get_num_threads()
    few = {name: tiny[name] for name in ("SaShiMi", "WaveNet")}
    monkeypatch.setattr(throughput, "PAPER_MODELS", few)
    monkeypatch.setattr(throughput, "SEGMENT", 128)
    monkeypatch.setattr(throughput, "PART", 64)
    monkeypatch.setattr(throughput, "THREADS", threads)
    monkeypatch.setattr(throughput, "measure_device", lambda side: machine)
    monkeypatch.setattr(throughput, "peak_mebibytes_of", lambda *_: 1.0)
    monkeypatch.setattr(
        throughput, "jobs", lambda models, gpu: ([(name, mode) for name in models for mode in modes], [])
    )
    monkeypatch.setenv("SASHIMI_RESULTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["throughput.py"])
    throughput.main()
    figures = json.loads((tmp_path / "throughput.json").read_text())["figures"]
    assert figures["models"].keys() == few.keys()
    assert [row["activation_checkpointing"] for row in figures["models"]["WaveNet"]["ways"]] == [False, True]
    assert all(
        seconds > 0
        for model in figures["models"].values()
        for row in model["ways"]
        for seconds in row["seconds_per_step"]
    )
    assert sum(figures["shares"][f"share_{name}"] for name in ("kernel", "fft", "linear", "rest")) == (
        pytest.approx(1, abs=0.01)
    )
    once = figures["kernels_once"]
    assert (
        once["parts_times_faster"] == once["parts_kernels_each_seconds"] / once["parts_kernels_once_seconds"]
    )
    assert once["recompute_price"] == once["recompute_kernels_once_seconds"] / once["plain_seconds"] - 1
    monkeypatch.setattr("sys.argv", ["throughput.py", "--only", "kernels_once"])
    monkeypatch.setattr(throughput, "time_kernel_reuse", lambda *_: {"parts": 7})
    throughput.main()
    again = json.loads((tmp_path / "throughput.json").read_text())["figures"]
    assert again == figures | {"kernels_once": {"parts": 7}}


@pytest.mark.slow
def test_bounds_of_every_machine_in_every_precision_that_it_has(tiny):
    figures = bounds.figures_of({"SaShiMi": tiny["SaShiMi"]})
    computed = {machine: models["SaShiMi"] for machine, models in figures["computed"].items()}
    assert computed.keys() == figures["devices"].keys()
    assert computed["T4"].keys() == {"float32"}
    hopper = computed["H100 SXM"]
    assert hopper["tf32"]["seconds_per_step"] <= hopper["float32"]["seconds_per_step"]
    assert hopper["float32"]["dollars"] == pytest.approx(3.95 * hopper["float32"]["hours"])
    assert computed["H200"]["float32"]["dollars"] is None


def test_unshared_kernels_are_computed_for_each_part_and_each_block(tiny, monkeypatch):
    calls, kernel = [], s4.kernel
    monkeypatch.setattr(s4, "kernel", lambda *arguments: (calls.append(arguments), kernel(*arguments))[1])
    model, codes = tiny["SaShiMi"].build(0), torch.randint(0, 256, (4, 64))
    for execution, shared, kernels in (
        (ExecutionConfig(grad_accumulation=4), False, 4 * 2),  # of two tiers, a layer each
        (ExecutionConfig(grad_accumulation=4), True, 2),
        (ExecutionConfig(activation_checkpointing=True), False, 2 * 2),
        (ExecutionConfig(activation_checkpointing=True), True, 2),
        (ExecutionConfig(activation_checkpointing=True, kernel_checkpointing=True), True, 2 * 2),
    ):
        calls.clear()
        kernel_reuse.gradient_step(model, codes, execution, shared)()
        assert len(calls) == kernels


def test_precomputed_kernels_are_generated_once(tiny, monkeypatch):
    calls, randn = [], torch.randn

    def recording_randn(*size, **options):
        calls.append(options)
        return randn(*size, **options)

    monkeypatch.setattr(torch, "randn", recording_randn)
    breakdown.step_breakdown(tiny["SaShiMi"].build(0), torch.zeros(1, 64, dtype=torch.long), 2)
    kernels = [options for options in calls if options.get("dtype") is torch.float32]  # operands have none
    assert len(kernels) == 2  # of two tiers
