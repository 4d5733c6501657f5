"""Do a run again from its own folder, and compare the numbers to the last bit.

python -m recipes.rerun                          the newest run
python -m recipes.rerun runs/digits/2026-11-26_15-18-55

The new run and its weights go to rerun_<time> beside the project's runs. Exits with 1 if a metric or a weight differs.
"""

from datetime import datetime

from core import IngredientsError, parse
from core.errors import escaped
from recipes.parts.command import Command
from recipes.parts.records import Record, read_run, train
from recipes.settings import MEASURED


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("run", nargs="?", metavar="RUN", help="a run folder; default: the newest run")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        arguments, ingredients = command.read(with_functions=False)
        from recipes.parts.trained import find_trained, runs_of

        old = read_run(find_trained(arguments.run, ingredients).parents[1])
        if old.folder.name == "debug":
            raise IngredientsError(f"{old.folder}: a debug run is not repeated")
        file, name = old.folder / "ingredients.ini", f"rerun_{datetime.now():%Y-%m-%d_%H-%M-%S-%f}/{old.folder.name}"
        # A run that was stopped is compared as far as it came, by the weights of its best epoch.
        new = train(file, runs_of(parse(file)), name, {"training.model.save_all_checkpoints": str(not old.finished)})
        if new is None:
            raise SystemExit(1)
        print(f"rerun: {new.folder}")
        after = numbers(new, "best" if old.finished else f"epoch-{old.best['epoch']:03}", "last")
        for name, value in numbers(old, "best", *["last"] * old.finished).items():
            if name not in after or not value.allclose(after[name], rtol=0, atol=0, equal_nan=True):
                how = f"differs by up to {(after[name] - value).abs().max():.3g}" if name in after else "is missing"
                print(escaped(f"{name} {how}; environment.json and log.txt of the two runs may say why"))
                raise SystemExit(1)
        print(f"the same: metrics of {len(old.epochs)} epoch(s){', of the test data' * bool(old.testing)}, weights")


def numbers(run: Record, *names: str) -> dict:
    """Metrics and weights by name, as tensors, in the order in which they came to be."""
    import torch

    from recipes.parts import checkpoint

    lines = {f"epoch {line['epoch']}:": line for line in run.epochs} | {"test": run.testing}
    found = {f"{label} {name}": value for label, line in lines.items() for name, value in line.items()}
    found = {name: value for name, value in found.items() if name.split()[-1] not in ("split", *MEASURED)}
    for label, name in zip(("best", "last"), names, strict=False):
        state = checkpoint.load(run.folder / f"checkpoints/{name}.pt")["model"]
        found |= {f"{label} weights: {key}": value for key, value in state.items()}
    return {name: torch.as_tensor(value).double() for name, value in found.items()}


if __name__ == "__main__":
    main()
