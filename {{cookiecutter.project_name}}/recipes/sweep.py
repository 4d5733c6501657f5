"""Sweep: train with the settings that [sweep] of the ini file varies, and find the best ones.

    python -m recipes.sweep                            start, join or continue the sweep of ingredients.ini
    python -m recipes.sweep other.ini --sweep.study.trials 50
    python -m recipes.sweep --results                  what there is so far

Any number of processes, on all hosts that share this folder, join by the same command. The trial of one that is killed
is continued by another, or by the next that starts. Settings and custom_functions.py stay as they were at the start.
What [sweep] may contain: recipes/parts/space.py; trials, seeds, sampler, pruner, ... are in [sweep.study].
"""

import csv
import gc
import io
import multiprocessing
import os
import threading
from pathlib import Path

from core import IngredientsError
from core.errors import escaped, shortened
from core.registry import need
from recipes.parts.command import Command


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--results", action="store_true", help="write and print the results so far, and exit")

        def open_worker(arguments, ingredients):
            try:
                need("optuna")
            except ValueError as error:
                raise IngredientsError(f'a sweep {error}, or ".[sweep]"') from error
            from recipes.parts.study import Worker

            return Worker(Path(arguments.ingredients), {path: text for path, text, _ in command.overrides}, ingredients)

        def check(arguments, ingredients) -> str:
            worker = open_worker(arguments, ingredients)
            return f"sweep: {worker.trials} trials of {', '.join(worker.space)}"

        arguments, ingredients = command.read(checks=[check])
        os.environ["TQDM_DISABLE"] = "1"
        worker = open_worker(arguments, ingredients)
        command.interruptible()
        train_in_processes(worker, command, arguments.results)


def train_in_processes(worker, command, only_results: bool) -> None:
    """One process trains; if it dies, as it does if memory runs out, another goes on with the next trial."""
    dead = None
    while True:
        process = multiprocessing.get_context("fork").Process(target=work, args=(worker, command, only_results, dead))
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:  # which that process has got as well
            process.join()
        if process.exitcode > 128:
            print("stopped; the same command continues the sweep")
        if process.exitcode >= 0:
            raise SystemExit(process.exitcode)
        dead = process.pid, f"its process was ended by signal {-process.exitcode}; memory may have run out"


def work(worker, command, only_results: bool, dead: tuple | None) -> None:
    """Train trial after trial. dead: the process that this one replaces, and how it ended."""
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    with command:
        command.interruptible()
        worker.open()
        if dead:
            worker.fail_trial_of(*dead)
        while not only_results and (trial := worker.next_trial()):
            cells = cells_of(worker, row_of(worker, worker.run(trial)))
            print("  ".join(f"{name} {text}" for name, text in cells.items() if text), flush=True)
            gc.collect()  # a model that is part of a cycle holds its memory until then
            gc.freeze()  # what is left are modules, which are not looked through again
        write_results(worker)


# ------------------------------------------------------------------------------------------------------------ results

ORDER = ("complete", "pruned", "running", "waiting", "fail")


def write_results(worker) -> None:
    """Print a table, best trials first; write results.csv, results.html and best.ini into the folder of the sweep."""
    from jinja2 import Environment

    from recipes.parts import checkpoint

    sign = -1 if worker.best_of is max else 1
    rows = [row_of(worker, trial) for trial in worker.study.trials]
    rows.sort(key=lambda row: (ORDER.index(row["state"]), sign * (row[worker.metric] or 0), row["trial"]))
    if not rows:
        return print("no trial yet")
    with io.StringIO() as table:
        csv.writer(table, lineterminator="\n").writerows([rows[0], *(row.values() for row in rows)])
        files = {"results.csv": table.getvalue()}
    logarithmic = [path for path, values in worker.space.items() if vars(values).get("log")]
    facts = {"rows": rows, "metric": worker.metric, "lowest": sign > 0, "importance": worker.importance()}
    facts |= {"paths": list(worker.space), "logarithmic": logarithmic}
    template, environment = Path(__file__).with_name("templates") / "sweep.html", Environment(autoescape=True)
    environment.policies["json.dumps_kwargs"] = {}  # which would sort the columns
    page = environment.from_string(template.read_text(encoding="utf-8"))
    files["results.html"] = page.render(name=worker.folder.name, facts=facts)
    if rows[0]["state"] == "complete":
        files["best.ini"] = worker.ini_of(rows[0]["trial"])
        rows[0]["state"] = "best"
    for name, text in files.items():
        with checkpoint.replacing(worker.folder / name) as file:
            file.write(text.encode())
    cells = [cells_of(worker, row) for row in rows[:20]]
    for line in [{name: name for name in cells[0]}, *cells]:
        widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in line}
        shown = [line[name].ljust(widths[name]) for name in line if any(row[name] for row in cells)]
        print("  ".join(shown).rstrip())
    print(f"{len(rows)} trials: {', '.join(str(worker.folder / name) for name in files)}")


def row_of(worker, trial) -> dict:
    """What results.csv says of a trial."""
    error = trial.user_attrs.get("error", "").strip().rpartition("\n")[2]
    row = {"trial": trial.number, "state": trial.state.name.lower(), worker.metric: trial.value}
    row |= {"deviation": trial.user_attrs.get("deviation")} | {path: trial.params.get(path) for path in worker.space}
    seconds = trial.duration and trial.duration.total_seconds()
    return row | {"last_epoch": trial.last_step, "seconds": seconds, "error": escaped(shortened(error)) or None}


def cells_of(worker, row: dict) -> dict[str, str]:
    """A row for the terminal: short names and numbers."""
    names = [path.rpartition(".")[2].lstrip("@") for path in worker.space]
    short = {path: name for path, name in zip(worker.space, names, strict=True) if [*names, *row].count(name) == 1}
    texts = (
        "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()
    )
    return dict(zip([short.get(name, name) for name in row], texts, strict=True))


if __name__ == "__main__":
    main()
