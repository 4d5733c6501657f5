# /// script
# requires-python = ">=3.11"
# dependencies = ["confection", "omegaconf", "hydra-core"]
# ///
"""How long a user waits for an ini file: the template's core/ against the usual readers.

    uv run benchmarks/language.py [ROUNDS]

Files of 10 to 5,000 sections with 5 keys each, of which one or two are references; "with functions" each section also
names a registered function with annotated arguments. Timed is the first call in a fresh process, after the imports,
since that is what a user waits for. Rounds are interleaved, so that a busy moment hits every contender; the table holds
medians. configparser reads with interpolation=None: it gives text alone, looks up no reference and checks nothing.
"""

import math
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"
SIZES = (10, 100, 1_000)
LARGE = 5_000
FUNCTION = "def thing(count: int, rate: float, name: str, other: int, path: str):\n    return count\n"

# contender -> (imports, the timed call); {file} is the generated file without its suffix
CALLS = {
    "ours": ("from core import parse", "parse('{file}.ini')"),
    "configparser": ("import configparser", "configparser.ConfigParser(interpolation=None).read('{file}.ini')"),
    "confection": ("from confection import Config", "Config().from_disk('{file}.ini')"),
    "OmegaConf": (
        "from omegaconf import OmegaConf",
        "OmegaConf.to_container(OmegaConf.load('{file}.yaml'), resolve=True)",
    ),
    "Hydra": (
        "from hydra import compose, initialize_config_dir\nfrom omegaconf import OmegaConf\nfrom pathlib import Path\n"
        "file = Path('{file}')\ninitialize_config_dir(str(file.parent), version_base=None).__enter__()",
        "OmegaConf.to_container(compose(file.name), resolve=True)",
    ),
}
FUNCTION_CALLS = {
    "ours": (
        f"from core import parse, registry, resolve\n{FUNCTION}registry.create('things').register('thing')(thing)",
        "resolve(parse('{file}.ini'))",
    ),
    "confection": (
        f"import confection\n{FUNCTION}class registry(confection.registry):\n    things = {{'thing': thing}}",
        "registry.resolve(confection.Config().from_disk('{file}.ini'))",
    ),
}
SLOW = ("OmegaConf", "Hydra")  # not measured at the largest size
MODULES = {"confection": "confection", "OmegaConf": "omegaconf", "Hydra": "hydra"}  # left out if not installed


def write_files(folder: Path, sections: int) -> None:
    plain, functions, yaml = [], [], []
    for i in range(sections):
        values = {
            "count": str(i),
            "rate": f"{i}.5",
            "name": f'"item {i}"',
            "other": f"${{s{i - 1}.count}}" if i else "0",
            "path": f'"/data/${{s{i // 2}.name}}"' if i % 2 else f'"/data/{i}"',
        }
        lines = [f"{key} = {value}" for key, value in values.items()]
        plain += [f"[s{i}]", *lines, ""]
        functions += [f"[s{i}]", '@things = "thing"', *lines, ""]
        yaml += [f"s{i}:", *(f"  {key}: {value}" for key, value in values.items())]
    (folder / f"plain{sections}.ini").write_text("\n".join(plain))
    (folder / f"functions{sections}.ini").write_text("\n".join(functions))
    (folder / f"plain{sections}.yaml").write_text("\n".join(yaml))


def run(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def first_call(imports: str, call: str) -> float:
    """Milliseconds of one call in a fresh process."""
    timed = f"start = time.perf_counter()\n{call}\nprint((time.perf_counter() - start) * 1000)"
    return run(f"import time\n{imports}\n{timed}")


def import_cost() -> float:
    """Milliseconds from the start of a process to its end with `import core`, less those without."""
    loop = (
        "import subprocess, sys, time\nstart = time.perf_counter()\nsubprocess.run([sys.executable, '-c', {code!r}])\n"
    )
    loop += "print((time.perf_counter() - start) * 1000)"
    return run(loop.format(code="import core")) - run(loop.format(code="pass"))


def measure(rounds: int, folder: Path) -> dict:
    """(kind, contender, sections) -> median milliseconds."""
    jobs = {}
    for kind, calls in (("plain", CALLS), ("functions", FUNCTION_CALLS)):
        for name, (imports, call) in calls.items():
            if name in MODULES and not find_spec(MODULES[name]):
                continue
            for size in SIZES if name in SLOW else (*SIZES, LARGE):
                file = f"{folder}/{kind}{size}"
                jobs[kind, name, size] = imports.replace("{file}", file), call.replace("{file}", file)
    times = {job: [] for job in jobs}
    for done in range(rounds):
        for job, code in jobs.items():
            times[job].append(first_call(*code))
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return {job: statistics.median(values) for job, values in times.items()}


def print_table(medians: dict) -> None:
    """A line per contender: milliseconds by size, ours as a share of it at 1,000 sections, growth beyond."""
    print(f"{'ms, first call':26}" + "".join(f"{size:>9,}" for size in (*SIZES, LARGE)) + "  ours/it   growth")
    for kind, calls in (("plain", CALLS), ("functions", FUNCTION_CALLS)):
        for name in calls:
            values = [medians.get((kind, name, size)) for size in (*SIZES, LARGE)]
            if not any(values):
                continue
            cells = "".join(f"{value:9.1f}" if value else f"{'–':>9}" for value in values)
            share = medians[kind, "ours", 1_000] / values[2]
            growth = f"n^{math.log(values[3] / values[2]) / math.log(LARGE / 1_000):.2f}" if values[3] else "–"
            print(f"{kind + ', ' + name:26}{cells}{share:9.2f}{growth:>9}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        for size in (*SIZES, LARGE):
            write_files(Path(folder), size)
        medians = measure(rounds, Path(folder))
    cost = statistics.median(import_cost() for _ in range(4 * rounds))
    print(f"{sys.version.split()[0]}, medians of {rounds} interleaved rounds\n")
    print_table(medians)
    print(f"\nimport core: {cost:.1f} ms over a bare Python")


if __name__ == "__main__":
    main()
