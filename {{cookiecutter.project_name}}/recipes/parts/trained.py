"""Runs that there are: find one, resume it, or open the model that it trained."""

import json
from pathlib import Path

from core import Ingredients, IngredientsError, SettingError, parse, parse_string, resolve
from core.errors import suggest
from recipes.experiment import Experiment, build, configure
from recipes.parts import checkpoint
from recipes.parts.origins import resolved_text
from recipes.parts.records import differences, recorded
from recipes.run import CHECKPOINTS, Run, runs_folder
from recipes.settings import Saving, Scheme, check_sections, declared_paths, import_functions, read_section

# What a checkpoint holds, whatever the settings of its run: see TrainState.
KEYS = {"epoch", "step", "history", "best", "since_best", "autotuned", "loss_sum", "meta", "model", "scaler"}
KEYS |= {"optimizers"}
# What the weights so far depend on: with another value of these a run cannot be resumed.
FIXED = ("model.architecture", "training.load_dataset", "validation.load_dataset", "training.preprocess")
FIXED += ("training.optimizer.@", "training.scheme.seed", "training.scheme.validation_fraction", "training.scheme.fold")
FIXED += ("training.scheme.ema", "training.scheme.swa", "training.scheme.batch_size", "training.scheme.accumulate")
FIXED += ("training.scheme.precision",)
RATES = ("lr", "initial_lr", "momentum", "weight_decay", "betas")  # of an optimizer: a resumed run takes the ini's


def newest(parent: Path) -> Path | None:
    """The run folder with the newest last checkpoint; debug runs do not count."""
    found = [path for path in parent.glob(f"*/{CHECKPOINTS}/last.pt") if path.parent.parent.name != "debug"]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path)).parent.parent if found else None


def find_run(parent: Path, name: str) -> Path | None:
    """The folder `name` of a run to resume; for "" the newest one in `parent`, if there is any."""
    folder = Path(name) if name else newest(parent)
    if folder is not None and not (folder / CHECKPOINTS).is_dir():
        names = [str(path) for path in parent.glob("*") if (path / CHECKPOINTS).is_dir()]
        raise IngredientsError(f"--resume {name}: there is no run in this folder. {suggest(name, names)}")
    return folder


def resume_run(run: Run, name: str, ingredients: Ingredients, scheme: Scheme) -> bool:
    """Go on with the run `name`, or with the newest one for "", if there is any. Returns whether it is finished."""
    folder = find_run(run.parent, name)
    if folder is None:
        return False
    state, damaged = _load_newest(folder / CHECKPOINTS)
    changed = check_resumable(folder, state, ingredients)
    if state["step"] == 0 and state["since_best"] == 0 and not damaged:  # stopped before the best got their name
        checkpoint.link(folder / CHECKPOINTS / "last.pt", folder / CHECKPOINTS / "best.pt")
    # An epoch whose checkpoint was not written is repeated.
    kept = [*state["history"], *(line for line in recorded(folder) if "train_loss" not in line)]
    with checkpoint.replacing(folder / "metrics.jsonl") as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
    run.folder, run.state = folder, state
    for text in damaged:
        run.log(f"{text}; resuming from the one before")
    steps = f" and {state['step']} steps" if state["step"] else ""
    run.log(f"resume {folder} after epoch {state['epoch']}{steps}")
    for line in changed:
        run.log(f"  changed since: {line}")
    return is_finished(folder, state, scheme)


def check_resumable(folder: Path, state: dict, ingredients: Ingredients) -> list[str]:
    """Settings that changed since; refuses those that the weights depend on, and what another version wrote."""
    message = ""
    if missing := sorted(KEYS - state.keys()):
        message = f"another version wrote its checkpoint, without {', '.join(missing)}"
    changed = differences(parse(folder / "ingredients.ini"), parse_string(resolved_text(ingredients)))
    changed = [line for line in changed if not line.startswith("training.scheme.resume")]
    if other := [line for line in changed if line.startswith(FIXED)]:
        message = f"these settings changed ({'; '.join(other)})"
    if message:
        message = f"cannot resume {folder}: {message}; start without --resume"
        raise SettingError("training.scheme.resume", message)
    return changed


def restore(experiment: Experiment, state: dict) -> None:
    """Give model, optimizers, scaler and averaged weights what a checkpoint holds of them."""
    rates = [{key: group[key] for key in RATES if key in group} for group in experiment.param_groups]
    try:
        experiment.model.load_state_dict(state.get("training", state["model"]))
        for name, optimizer in experiment.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        experiment.scaler.load_state_dict(state["scaler"])
        if experiment.ema_model is not None:
            experiment.ema_model.module.load_state_dict(state["model"])
            experiment.ema_model.n_averaged.copy_(state["n_averaged"])
    except (RuntimeError, ValueError, KeyError) as error:  # the data or a function changed, though no setting did
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        message = f"the checkpoint does not fit: {reason}; start without --resume"
        raise SettingError("training.scheme.resume", message) from error
    for group, own in zip(experiment.param_groups, rates, strict=True):
        group.update(own)


def is_finished(folder: Path, state: dict, scheme: Scheme) -> bool:
    """Whether a run came to its end, with test metrics and weights written."""
    stopped = scheme.early_stop and state["since_best"] >= scheme.patience
    finished = [line["finished"] for line in recorded(folder) if "finished" in line]
    return (state["epoch"] >= scheme.epochs or stopped) and state["epoch"] in finished


def _load_newest(folder: Path) -> tuple[dict, list[str]]:
    """The state of last.pt or, if that is damaged, of previous.pt; and what is wrong with those passed over."""
    errors = []
    for name in ("last.pt", "previous.pt"):
        try:
            return checkpoint.load(folder / name), errors
        except IngredientsError as error:
            errors.append(str(error))
    raise IngredientsError("\n".join(errors))


# ----------------------------------------------------------------------------------------------- open its model


def find_trained(name: str | None, ingredients: Ingredients) -> Path:
    """The checkpoint of a run folder (its best one) or file; without a name, of the newest run of `ingredients`."""
    parent = runs_of(ingredients)
    path = Path(name) if name else newest(parent)
    if path is None:
        raise IngredientsError(f"{parent}: no run yet; python train.py makes one, or name a checkpoint by --run PATH")
    if path.is_dir():
        path = path / CHECKPOINTS / "best.pt"
    if not path.is_file():
        runs = [str(run) for run in parent.glob("*") if (run / CHECKPOINTS / "best.pt").is_file()]
        raise IngredientsError(f"{path}: there is no such checkpoint. {suggest(name or str(path), runs)}")
    return path


def runs_of(ingredients: Ingredients) -> Path:
    """The folder of the runs of these ingredients."""
    return runs_folder(ingredients, read_section(ingredients, "training.model", Saving).runs)


class Functions:
    """The functions that ingredients call, each made when it is asked for: a prediction needs few of them.

    `made` has them by the path of their section; None for one that is absent, or that --check has found wrong.
    """

    def __init__(self, ingredients: Ingredients):
        self.ingredients, self.made = ingredients, {}

    def at(self, path: str):
        if path not in self.made:
            section = self.ingredients.at(path)
            self.made[path] = None if section is None else resolve(section)
        return self.made[path]


def open_trained(path: str | None, ingredients: Ingredients, overrides=()) -> Experiment:
    """The experiment of a checkpoint, with its model. See `find_trained`.

    All is as it was in that run, its custom_functions.py too; `overrides` change the ingredients.
    """
    file = find_trained(path, ingredients)
    state = checkpoint.load(file)
    import_functions(file.parent.parent)
    known, name = declared_paths(), f"settings in {file}"
    ingredients = parse_string(state["meta"]["ingredients"], overrides, known, [check_sections], name)
    experiment = build(configure(ingredients, Functions(ingredients)), meta=state["meta"])
    experiment.model.load_state_dict(state["model"])
    return experiment
