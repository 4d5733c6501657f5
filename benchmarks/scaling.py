# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1"]
# ///
"""A model of the time of a step: its constants measured here, its answer for two processes compared with the clock.

    uv run benchmarks/scaling.py [BACKBONE] [BATCH] [SIDE]          resnet18, 16 samples a process, 64 pixels a side
    uv run benchmarks/scaling.py --device cuda resnet50 64 224      on one machine with two GPUs or more
    uv run benchmarks/scaling.py --constants 150 100 102 25 10      without measuring: milliseconds of a step and of its
        backward pass, MB of gradients, GB/s and microseconds of the network

docs/scaling.md explains the model and applies it to many devices:

    step(n) = max(compute + exposed(n), input)
    exposed(n) = max(0, allreduce(n) - OVERLAP * backward) + latency of the last bucket
    allreduce(n) = the quicker of    2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency     a ring
                   and               2 * bytes / bandwidth + 2 log2(n) * latency                 a tree
    input = batch / (samples a second that the workers of a process read)

Compute is that of two processes at once, which share caches and memory. Processes run one thread each on CPUs.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

OVERLAP = 0.8  # share of the backward pass during which gradients are sent: the last bucket waits for its end
BUCKET = 25 * 2**20  # bytes, DistributedDataParallel's own
SIZES = (2**14, 2**18, 2**22, 2**25)  # bytes of the all-reduces that are timed


def median_seconds(call, device, rounds: int = 7) -> float:
    call()
    times = []
    for _ in range(rounds):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def network(name: str, device) -> torch.nn.Module:
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=10).to(device, memory_format=torch.channels_last)


def stepper(model, batch: int, side: int, device):
    """`step()` of training, `forward()` alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, targets = (
        torch.randn(batch, 3, side, side, device=device),
        torch.zeros(batch, dtype=torch.long, device=device),
    )

    def forward():
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    def step():
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return step, forward


def measure(rank: int, world: int, options, results) -> None:
    """In each of `world` processes: the constants, and the step of DistributedDataParallel."""
    torch.set_num_threads(1)
    device = torch.device(f"cuda:{rank}" if options.device == "cuda" else "cpu")
    backend = "nccl" if options.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{options.meeting}", rank=rank, world_size=world)
    step, forward = stepper(network(options.backbone, device), options.batch, options.side, device)
    dist.barrier()
    found = {"compute": median_seconds(step, device), "forward": median_seconds(forward, device)}
    for size in SIZES:
        values = torch.zeros(size // 4, device=device)
        dist.barrier()
        found[size] = median_seconds(lambda values=values: dist.all_reduce(values), device, rounds=15)
    model = network(options.backbone, device)
    parallel, _ = stepper(
        DistributedDataParallel(model, gradient_as_bucket_view=True), options.batch, options.side, device
    )
    dist.barrier()
    found["parallel"] = median_seconds(parallel, device)
    found["bytes"] = sum(parameter.nbytes for parameter in model.parameters())
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()


def fit(found: dict) -> tuple[float, float]:
    """(latency in seconds, bandwidth in bytes a second) of an all-reduce of two: from the smallest and the largest."""
    small, large = SIZES[0], SIZES[-1]
    bandwidth = (large - small) / (found[large] - found[small])
    return max(0.0, found[small] - small / bandwidth) / 2, bandwidth


def allreduce(n: int, size: float, latency: float, bandwidth: float) -> float:
    ring = 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency
    return min(ring, 2 * size / bandwidth + 2 * math.log2(n) * latency)


def step_time(n: int, compute: float, backward: float, size: float, latency: float, bandwidth: float, given: float):
    """Seconds of a step of `n` processes. given: seconds in which the workers read a batch."""
    whole = allreduce(n, size, latency, bandwidth)
    last = allreduce(n, min(size, BUCKET), latency, bandwidth) if n > 1 else 0.0
    return max(compute + max(last, whole - OVERLAP * backward), given)


def checkpoint_rates(megabytes: int = 256) -> tuple[float, float]:
    """Bytes a second of checkpoint.save (hashed, flushed to disk) and load (verified)."""
    from recipes.parts import checkpoint

    state = {"model": {"weight": torch.randn(megabytes * 2**18)}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        cpu = torch.device("cpu")
        written = median_seconds(lambda: checkpoint.save(path, state), cpu, rounds=3)
        read = median_seconds(lambda: checkpoint.load(path), cpu, rounds=3)
    return megabytes * 2**20 / written, megabytes * 2**20 / read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", default="resnet18")
    parser.add_argument("batch", nargs="?", type=int, default=16)
    parser.add_argument("side", nargs="?", type=int, default=64)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--constants", nargs=5, type=float, metavar="X")
    options = parser.parse_args()
    if options.constants:
        compute, backward, megabytes, bandwidth, latency = options.constants
        plan(options.batch, compute / 1e3, backward / 1e3, megabytes * 1e6, latency / 1e6, bandwidth * 1e9)
        return
    context = torch.multiprocessing.get_context("spawn")
    found = {}
    for world in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            options.meeting, results = f"{folder}/meeting", context.SimpleQueue()
            torch.multiprocessing.spawn(measure, (world, options, results), nprocs=world)
            found[world] = results.get()
    alone, two = found[1], found[2]
    latency, bandwidth = fit(two)
    backward = two["compute"] - two["forward"]
    predicted = step_time(2, two["compute"], backward, two["bytes"], latency, bandwidth, 0.0)
    written, read = checkpoint_rates()
    print(f"{options.backbone}, {options.batch} x 3 x {options.side} x {options.side} a process, {options.device}")
    print(f"gradients              {two['bytes'] / 1e6:9.1f} MB")
    print(f"compute, alone         {alone['compute'] * 1e3:9.1f} ms   forward {alone['forward'] * 1e3:.1f} ms")
    print(f"compute, two at once   {two['compute'] * 1e3:9.1f} ms   forward {two['forward'] * 1e3:.1f} ms")
    print(f"all-reduce of two      {bandwidth / 1e9:9.2f} GB/s  latency {latency * 1e6:.0f} us")
    print(f"checkpoint             {written / 1e9:9.2f} GB/s written, {read / 1e9:.2f} GB/s read and verified")
    print(f"step of two: predicted {predicted * 1e3:9.1f} ms   measured {two['parallel'] * 1e3:.1f} ms")
    print(f"error of the model     {predicted / two['parallel'] - 1:+9.1%}")
    shares = [alone["compute"] / seconds for seconds in (two["parallel"], predicted)]
    print(f"efficiency             {shares[0]:9.2f} measured, {shares[1]:.2f} predicted")
    plan(options.batch, two["compute"], backward, two["bytes"], latency, bandwidth)


def plan(batch: int, compute: float, backward: float, size: float, latency: float, bandwidth: float) -> None:
    """Print what the model says of many processes: their efficiency, and what the input has to give."""
    print(f"{'processes':>9} {'all-reduce':>11} {'step':>9} {'efficiency':>11} {'samples a second':>17}")
    for n in (1, 2, 8, 64, 1024):
        seconds = step_time(n, compute, backward, size, latency, bandwidth, 0.0)
        whole = allreduce(n, size, latency, bandwidth)
        rate = n * batch / seconds
        print(f"{n:>9} {whole * 1e3:>8.1f} ms {seconds * 1e3:>6.1f} ms {compute / seconds:>11.2f} {rate:>17,.0f}")


if __name__ == "__main__":
    main()
