"""Two processes with one thread each beside one process, and beside a loop with DistributedDataParallel by hand.

    python benchmarks/parallel.py [ROUNDS]

Trains torchvision's resnet18 on 3x32x32 images, 256 in a batch of all processes, with the network, data, optimizer and
recipe of benchmarks/training.py. Each start is a process of its own, as torchrun makes them; rounds are interleaved; an
epoch to warm up is left out. The table holds medians of images per second, and of the ratios of each round.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, STEPS, EPOCHS = 256, 3, 4


def work(kind: str) -> None:
    """In a process of its own: print the images per second."""
    import contextlib
    import io

    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    import training

    torch.set_num_threads(1)
    training.CASES["resnet18"] = (3, 32, BATCH, STEPS, 1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        seconds = by_hand(training) if kind == "by hand" else training.ours("resnet18", EPOCHS)
    if os.environ.get("RANK", "0") == "0":
        print(f"result {BATCH * STEPS / statistics.median(seconds[1:])}", flush=True)


def by_hand(training) -> list[float]:
    """Seconds of each epoch of a loop as PyTorch's tutorial on DistributedDataParallel has it."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs, targets = training.samples("resnet18")
    inputs = inputs.to(memory_format=torch.channels_last)
    plain = training.network("resnet18").to(memory_format=torch.channels_last)
    optimizer, criterion = training.optimizer_of(plain), torch.nn.CrossEntropyLoss(label_smoothing=training.SMOOTHING)
    model, seconds = DistributedDataParallel(plain), []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(epoch))
        for index, indices in enumerate(order.split(BATCH)):
            indices = indices.tensor_split(size)[rank]
            for group in optimizer.param_groups:
                group["lr"] = training.RATE * training.factor((epoch * STEPS + index) / (EPOCHS * STEPS))
            loss = criterion(model(inputs[indices]), targets[indices])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def rate(kind: str, processes: int) -> float:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] * (processes > 1)
    command = [sys.executable, *launcher, Path(__file__).resolve(), "--work", kind]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("result ")]
    if done.returncode or not found:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[0])


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = {"one process": ("ours", 1), "two processes": ("ours", 2), "two by hand": ("by hand", 2)}
    rates = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            rates[name].append(rate(*case))
    print(f"resnet18, batch {BATCH}, one thread a process; medians of {rounds} interleaved rounds, images per second")
    for name, found in rates.items():
        print(f"{name:14} {statistics.median(found):7.1f}  ({', '.join(f'{each:.0f}' for each in found)})")
    for name, other in (("two processes", "one process"), ("two processes", "two by hand")):
        ratios = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
        print(f"{name} / {other}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
