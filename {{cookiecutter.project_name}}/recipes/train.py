"""Train: data -> model -> optimizer -> the loop -> validation -> checkpoint, from top to bottom.

    python train.py                                     with ingredients.ini
    python train.py other.ini --training.scheme.epochs 3
    python train.py --testing.debug True                one batch of everything

What differs by task stands in recipes/<task>.py: BEST, check, check_data, check_other_data, build_model, default_loss,
loss, evaluate, predict.
"""

import importlib
import time
from pathlib import Path

import torch
from tqdm import tqdm

from core import Ingredients, IngredientsError, located, parse
from core.errors import suggest
from core.settings import read_section
from pantry.optimizers import sgd
from pantry.schedules import one_cycle
from recipes import checkpoint, data, runs
from recipes.explain import unread
from recipes.settings import Architecture, Saving, Scheme, Testing


def train(ingredients: Ingredients, functions: Ingredients) -> Path:
    """Do one run and return its folder. `functions` are the ingredients with their functions called."""
    scheme = read_section(ingredients, "training.scheme", Scheme)
    saving = read_section(ingredients, "training.model", Saving)
    architecture = read_section(ingredients, "model.architecture", Architecture)
    debug = read_section(ingredients, "testing", Testing).debug
    task = load_task(ingredients)
    check_scheme(ingredients, scheme)
    task.check(ingredients, architecture)
    device = choose_device(ingredients, scheme.device)
    parent = runs.folder_of(ingredients, saving.runs)
    weights = weights_file(ingredients, saving)
    folder, state = find_run(ingredients, scheme, parent, debug)
    if state is not None and is_over(state, scheme) and runs.is_finished(folder, state["epoch"]):
        runs.say(folder, f"{folder} is finished after epoch {state['epoch']}; raise epochs (or patience) to go on")
        return folder

    # Data
    training, validation = load_training_data(ingredients, functions, scheme)
    n_classes = task.check_data(ingredients, architecture, training)
    meta = describe(ingredients, training, n_classes)
    task.check_other_data(ingredients, "validation.load_dataset", validation, meta)
    training, validation = data.to_device(training, device), data.to_device(validation, device)
    if debug:
        scheme = one_batch(scheme)

    # Model, optimizer
    torch.manual_seed(data.seed_of("model", scheme.seed))
    model = task.build_model(ingredients, architecture, training.shape, n_classes)
    model = model.to(device, memory_format=torch.channels_last)  # convolutions run up to twice as fast, CPUs too
    criterion = functions.at("training.loss") or task.default_loss()
    augment = functions.at("training.augment")
    optimizer = (functions.at("training.optimizer") or sgd())(model)
    schedule = functions.at("training.schedule") or one_cycle()
    full_rates = [group["lr"] for group in optimizer.param_groups]
    batch_size = min(scheme.batch_size, len(training))
    steps_per_epoch = 1 if debug else len(training) // batch_size  # the samples left over wait for another epoch
    steps = scheme.epochs * steps_per_epoch
    first_epoch, best, since_best, history = restore(ingredients, folder, state, model, optimizer)
    if folder is None:  # not before all input has proved good
        folder = runs.create(parent, ingredients, "debug" if debug else None)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    runs.say(folder, f"{len(training):,} training and {len(validation):,} validation samples, {n_classes} classes")
    runs.say(folder, f"{architecture.backbone}: {parameters:,} parameters, on {device}")

    # The loop
    for epoch in range(first_epoch, scheme.epochs):
        if scheme.early_stop and since_best >= scheme.patience:
            runs.say(folder, f"early stop: no better {task.BEST} for {since_best} epochs")
            break
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(training), generator=data.generator("order", scheme.seed, epoch))
        order = order[: steps_per_epoch * batch_size]
        total = torch.zeros((), device=device)
        batches = data.batches(training, order, batch_size, device, scheme.workers)
        for index, (inputs, targets) in enumerate(progress(batches, steps_per_epoch, f"epoch {epoch + 1}")):
            step = epoch * steps_per_epoch + index
            factor = schedule(step / steps)
            for group, full_rate in zip(optimizer.param_groups, full_rates, strict=True):
                group["lr"] = full_rate * factor
            seed = data.seed_of("step", scheme.seed, step)  # a step's randomness is its own, whatever came before
            torch.manual_seed(seed)
            if augment is not None:
                inputs, targets = augment(inputs, targets, torch.Generator(device).manual_seed(seed))
            loss = task.loss(model, inputs, targets, criterion)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        train_loss = float(total) / steps_per_epoch
        seconds = time.perf_counter() - started
        if train_loss - train_loss != 0:
            message = f"the loss of epoch {epoch + 1} is {train_loss}; lower it, or look for NaN in the data"
            raise located(ingredients, "training.optimizer.learning_rate", message)

        # Validation
        shown = data.batches(validation, first_batch(validation, debug), 512, device, scheme.workers)
        figures = task.evaluate(model, progress(shown, None, "validation"))

        # Checkpoint
        is_best = best is None or rank(figures, task.BEST) > rank(best, task.BEST)
        best, since_best = (figures, 0) if is_best else (best, since_best + 1)
        history.append({"epoch": epoch + 1, "train_loss": train_loss, **figures, "seconds": round(seconds, 3)})
        state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"best": best, "since_best": since_best, "figures": figures, "history": history, "meta": meta}
        save(folder, state, is_best, saving.save_all_checkpoints)
        runs.record(folder, **history[-1])
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        runs.say(
            folder,
            f"epoch {epoch + 1:>3}/{scheme.epochs}  train loss {train_loss:.4f}  validation {said}  {seconds:.1f} s"
            + ("  best" if is_best else ""),
        )

    finish(ingredients, functions, folder, model, None if debug else weights, debug)
    return folder


# ------------------------------------------------------------------------------------------------- before the loop


def load_task(ingredients: Ingredients):
    """The module recipes/<task>.py that [project.meta] task names."""
    name = ingredients.at("project.meta.task", "classification")
    here = Path(__file__).parent
    names = [path.stem for path in here.glob("*.py") if "\nBEST = " in path.read_text(encoding="utf-8")]
    if name not in names:
        raise located(ingredients, "project.meta.task", f"there is no such task. {suggest(str(name), names)}")
    return importlib.import_module(f"recipes.{name}")


def check_scheme(ingredients: Ingredients, scheme: Scheme) -> None:
    """Refuse numbers that no training can use, all at once."""
    least = {"epochs": 1, "batch_size": 1, "patience": 1, "workers": 0, "memory": 0}
    wrong = [(name, f"write {low} or more") for name, low in least.items() if getattr(scheme, name) < low]
    if not 0 < scheme.validation_fraction < 1:
        wrong.append(("validation_fraction", "write a number between 0 and 1"))
    errors = [located(ingredients, f"training.scheme.{name}", message) for name, message in wrong]
    if errors:
        raise IngredientsError([problem for error in errors for problem in error.problems])


def weights_file(ingredients: Ingredients, saving: Saving) -> Path:
    """Where the best weights go. Refused before training where no file can be written there."""
    name = Path(saving.save_name)
    path = Path(saving.save_dir) / name if name.parent == Path() else name
    if not name.name or path.is_dir():
        raise located(ingredients, "training.model.save_name", "name a file, such as model.pth")
    return path


def is_over(state: dict, scheme: Scheme) -> bool:
    """Whether a run needs no further epoch."""
    return state["epoch"] >= scheme.epochs or (scheme.early_stop and state["since_best"] >= scheme.patience)


def choose_device(ingredients: Ingredients, name: str) -> torch.device:
    if name == "auto":
        # check_available: without it torch names cuda on a machine that has no GPU
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        message = f"cannot be used here ({str(error).splitlines()[0]}); write auto or cpu"
        raise located(ingredients, "training.scheme.device", message) from None
    return torch.device(name)


READ = {"project.name", "project.meta.task"}  # the settings below [project] that recipes read

# What the weights so far depend on: with another value of these a run cannot go on.
FIXED = ("model.architecture", "training.load_dataset", "validation.load_dataset", "training.preprocess")
FIXED += ("training.optimizer.@", "training.scheme.seed", "training.scheme.validation_fraction")


def find_run(ingredients: Ingredients, scheme: Scheme, parent: Path, debug: bool) -> tuple:
    """(folder, state) of the run to continue; (None, None) for a new one."""
    folder = runs.newest(parent) if scheme.resume and not debug else None
    if folder is None:
        return None, None
    last = folder / runs.CHECKPOINTS / "last.pt"
    state = checkpoint.load(last)
    changed = runs.differences(parse(folder / "ingredients.ini"), ingredients)
    changed = [line for line in changed if not line.startswith("training.scheme.resume")]
    if other := [line for line in changed if line.startswith(FIXED)]:
        message = f"cannot continue {folder}, which was trained otherwise ({'; '.join(other)}); write resume = False"
        raise located(ingredients, "training.scheme.resume", message)
    if state["since_best"] == 0:  # it may have been stopped before the best weights got their name
        checkpoint.link(last, last.with_name("best.pt"))
    runs.restore_metrics(folder, state["history"])
    runs.say(folder, f"continue {folder} after epoch {state['epoch']}")
    for line in changed:
        runs.say(folder, f"  changed since: {line}")
    return folder, state


def load_training_data(ingredients: Ingredients, functions: Ingredients, scheme: Scheme):
    """(training, validation); validation is a share of training where no section gives it."""
    if functions.at("training.load_dataset") is None:
        message = "missing; write [training.load_dataset] with @load_dataset = load_image_folder, or a loader of yours"
        raise located(ingredients, "training.load_dataset", message)
    download = functions.at("project.data.download")
    if download is not None:
        download()
    preprocess = functions.at("training.preprocess") or data.scale
    training = data.load("training.load_dataset", functions, preprocess, scheme.memory)
    if functions.at("validation.load_dataset") is None:
        return data.split_off(ingredients, training, scheme.validation_fraction, scheme.seed)
    return training, data.load("validation.load_dataset", functions, preprocess, scheme.memory)


def one_batch(scheme: Scheme) -> Scheme:
    """For debugging: one epoch of one step, read in this process so that breakpoints work."""
    from dataclasses import replace

    return replace(scheme, epochs=1, workers=0)


def restore(ingredients: Ingredients, folder: Path | None, state: dict | None, model, optimizer) -> tuple:
    """(first epoch, best figures, epochs since, history); the optimizer's rates stay those of the ini."""
    if state is None:
        return 0, None, 0, []
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:  # the data or a function changed, though no setting did
        message = f"cannot continue {folder}: {str(error).splitlines()[0]}; write resume = False"
        raise located(ingredients, "training.scheme.resume", message) from error
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        group.update(kept)
    return state["epoch"], state["best"], state["since_best"], state["history"]


def describe(ingredients: Ingredients, training: data.Samples, n_classes: int) -> dict:
    """What validate and predict need beside the weights."""
    classes = training.classes or [str(index) for index in range(n_classes)]
    return {"ingredients": str(ingredients), "classes": classes, "form": training.form, "shape": training.shape}


# ------------------------------------------------------------------------------------------- in and after the loop


def progress(batches, count: int | None, text: str):
    return tqdm(batches, total=count, desc=text, leave=False, disable=None, mininterval=0.25)


def first_batch(samples: data.Samples, debug: bool) -> torch.Tensor | None:
    return torch.arange(min(len(samples), 512)) if debug else None


def rank(figures: dict, best: str) -> tuple:
    return figures[best], -figures["loss"]


def save(folder: Path, state: dict, is_best: bool, keep_all: bool) -> None:
    """last.pt always; best.pt and one for each epoch as further names of the same file."""
    last = folder / runs.CHECKPOINTS / "last.pt"
    checkpoint.save(last, state)
    if is_best:
        checkpoint.link(last, last.with_name("best.pt"))
    if keep_all:
        checkpoint.link(last, last.with_name(f"epoch-{state['epoch']:03}.pt"))


def finish(ingredients: Ingredients, functions: Ingredients, folder: Path, model, weights: Path | None, debug) -> None:
    """Measure the best weights once on the test data; write best and last weights under their names (not in debug)."""
    from recipes.validate import measure

    best = checkpoint.load(folder / runs.CHECKPOINTS / "best.pt")
    if functions.at("testing.load_dataset") is not None:
        model.load_state_dict(best["model"])
        figures, count = measure(ingredients, functions, model, "testing", best["meta"], debug)
        runs.record(folder, split="testing", epoch=best["epoch"], **figures)
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        runs.say(folder, f"best epoch {best['epoch']} on {count:,} test samples: {said}")
    last = checkpoint.load(folder / runs.CHECKPOINTS / "last.pt")
    if weights is not None:
        for path, state in ((weights, best), (weights.with_stem(weights.stem + "-last"), last)):
            del state["optimizer"]
            checkpoint.save(path, state)
        runs.say(folder, f"weights: {weights}")
    if facts := unread(ingredients, READ):
        runs.say(folder, f"nothing read: {', '.join(facts)}")
    runs.record(folder, finished=last["epoch"])
    runs.say(folder, f"run: {folder}")
