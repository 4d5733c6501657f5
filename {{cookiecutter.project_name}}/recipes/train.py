"""Train: data -> model -> optimizer -> the loop -> validation -> checkpoint, from top to bottom.

    python train.py                                     with ingredients.ini
    python train.py other.ini --training.scheme.epochs 3
    python train.py --testing.debug True                one batch of everything
    python train.py --resume                            go on with the newest run

What differs by task stands in recipes/<task>.py: BEST, check, check_data, check_other_data, build_model, default_loss,
loss, evaluate, predict, and where there is something to see, draw.
"""

import importlib
import math
import time
from collections import deque
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import torch

from core import Ingredients, IngredientsError, located
from core.declared import read_section
from core.errors import suggest
from pantry import models
from pantry.optimizers import sgd
from pantry.schedules import one_cycle
from recipes import checkpoint, data, guard, pictures, runs, tune
from recipes.explain import unread
from recipes.settings import Architecture, Saving, Scheme, Testing
from recipes.techniques import arithmetic, average_of, choose_device, keep_freed_memory, measured_of, seeder, tricks


def train(ingredients: Ingredients, functions: Ingredients, resume: str | None = None) -> Path:
    """Do one run and return its folder. `functions` are the ingredients with their functions called.

    `resume`: the folder of a run to go on with; "" for the newest; None for what the ingredients say.
    """
    scheme = read_section(ingredients, "training.scheme", Scheme)
    saving = read_section(ingredients, "training.model", Saving)
    architecture = read_section(ingredients, "model.architecture", Architecture)
    debug = read_section(ingredients, "testing", Testing).debug
    task = load_task(ingredients)
    check_scheme(ingredients, scheme)
    task.check(ingredients, architecture)
    device = choose_device(ingredients, scheme.device)
    metrics = metrics_of(functions, device)
    best, rank = ranking(ingredients, scheme, task, metrics)
    parent = runs.folder_of(ingredients, saving.runs)
    weights = weights_file(ingredients, saving)
    folder, state = runs.find(ingredients, parent, "" if resume is None and scheme.resume else resume, debug)
    if state is not None and is_over(state, scheme) and runs.is_finished(folder, state["epoch"]):
        runs.say(folder, f"{folder} is finished after epoch {state['epoch']}; raise epochs (or patience) to go on")
        return folder

    # Data
    training, validation = load_training_data(ingredients, functions, scheme)
    n_classes = task.check_data(ingredients, architecture, training)
    meta = describe(ingredients, training, n_classes)
    task.check_other_data(ingredients, "validation.load_dataset", validation, meta)
    training, validation = data.to_device(training, device), data.to_device(validation, device)
    if one_by_one := getattr(functions.at("training.augment"), "per_sample", None):
        training = data.augmented(training, one_by_one, scheme.seed)

    # Model, loss, optimizer
    keep_freed_memory()
    seed_all = seeder(device, scheme.deterministic)
    seed_all(data.seed_of("model", scheme.seed))
    model = task.build_model(ingredients, architecture, meta["shape"], n_classes)
    model.class_names = meta["classes"]  # by which figures of single classes are named
    left_new = []
    if architecture.weights and state is None:
        with told_at(ingredients, "model.architecture.weights"):
            left_new = models.load_weights(model, architecture.weights, architecture.backbone)
    model = model.to(device, memory_format=torch.channels_last)  # convolutions run up to twice as fast, CPUs too
    if architecture.recompute:
        with told_at(ingredients, "model.architecture.recompute"):
            models.recompute(model, architecture.recompute)
    head = models.head(model)
    criterion = functions.at("training.loss") or task.default_loss()
    criterion = prepared(ingredients, "training.loss", criterion, training.targets, n_classes, device)
    optimizer = (functions.at("training.optimizer") or sgd())(model)
    if scheme.body_rate != 1 or scheme.frozen_epochs:  # fused optimizers want a frozen body in groups of its own
        models.split_rates(optimizer, list(head.parameters()), scheme.body_rate)
    autocast, scaler = arithmetic(scheme.precision, device)
    average = average_of(model, scheme)
    changes, before_step, after_step = tricks(functions, scheme, model, optimizer, scaler, average)
    if scheme.compile:
        model.compile()

    model.train()  # for the trials that `auto` makes too

    def loss_of(inputs, targets):
        with autocast:
            return task.loss(model, inputs, targets, criterion)

    # Lengths, order, rates. What `auto` finds is found once, and kept with the state
    found = state["found"] if state else {}
    if scheme.batch_size == "auto" and "batch_size" not in found:
        found["batch_size"] = tune.batch_size(loss_of, training, device)
    samples_per_step = min(found.get("batch_size", scheme.batch_size) * scheme.accumulate, len(training))
    steps_per_epoch = 1 if debug else len(training) // samples_per_step  # what is left over waits for another epoch
    steps = 1 if debug else max(1, round(scheme.epochs * steps_per_epoch))
    read = data.reader(training, samples_per_step, device, 0 if debug else scheme.workers)
    read_validation = data.reader(validation, 512, device, 0 if debug else scheme.workers)
    order_of = data.orders(training, scheme.seed, scheme.balanced)
    if folder is None:  # not before all input has proved good
        folder = runs.create(parent, ingredients, "debug" if debug else None)
    if ingredients.at("training.optimizer.learning_rate") == "auto" and "learning_rate" not in found:
        trial = chain.from_iterable(read(order_of(-epoch)) for epoch in count(1))
        found["learning_rate"] = tune.learning_rate(model, optimizer, loss_of, trial, folder / "learning_rate.png")
    full_rates = [group["lr"] * found.get("learning_rate", 1.0) for group in optimizer.param_groups]
    stateful = {"training": model, "optimizer": optimizer, "scaler": scaler, "average": average}
    at = restore(ingredients, folder, state, stateful)
    total, history = at["total"].to(device), at["history"]
    schedule = functions.at("training.schedule") or one_cycle()
    schedule = prepared(ingredients, "training.schedule", schedule, scheme.epochs, steps_per_epoch, history)
    track = functions.training.tracker(folder, ingredients) if functions.at("training.tracker") else None
    introduce(folder, training, validation, meta, architecture, model, device, found, left_new)

    def keep(done: int) -> None:
        """Write last.pt, from which the run goes on, as after `done` steps of an epoch."""
        nonlocal saved
        at.update(done=done, total=total.cpu())
        measured = measured_of(model, average)
        states = {name: part.state_dict() for name, part in stateful.items() if part not in (None, measured)}
        states |= {"model": measured.state_dict(), "found": found, "meta": meta}
        checkpoint.rotate(folder / runs.CHECKPOINTS, at | states)
        saved = time.monotonic()

    def keep_if_due(done: int) -> None:
        """Every few minutes, and where a signal asked for it; one that asked for the end then gets it."""
        if asked["stop"] or asked["save"] or time.monotonic() > saved + 60 * saving.checkpoint_minutes:
            refuse_if_bad(done)
            keep(done)
            runs.obey(folder, asked, f"step {done} of epoch {at['epoch'] + 1}")

    def refuse_if_bad(done: int, bad: bool | None = None) -> None:
        if bad or (bad is None and not math.isfinite(total)):
            where = f"of epoch {at['epoch'] + 1}, step {done}"
            batches = [(x, y, order[(n - 1) * samples_per_step : n * samples_per_step]) for x, y, n in recent]
            guard.refuse_loss(ingredients, folder, batches, training.names, where)

    # The loop
    saved, generator, is_bad, recent = time.monotonic(), torch.Generator(device), guard.watch(device), deque(maxlen=2)
    share = None if scheme.accumulate == 1 else torch.tensor(1 / scheme.accumulate, device=device)
    with guard.explained(ingredients, folder, track), guard.listening() as asked:
        for epoch in range(at["epoch"], math.ceil(steps / steps_per_epoch)):
            if scheme.early_stop and at["since_best"] >= scheme.patience:
                runs.say(folder, f"early stop: no better {best} for {at['since_best']} epochs")
                break
            started, done = time.perf_counter(), at["done"]
            model.train()
            if scheme.frozen_epochs:
                models.freeze(model, head, epoch < scheme.frozen_epochs)
            if hasattr(optimizer, "train"):  # of those that have two sets of weights, as schedule-free ones
                optimizer.train()
            order = order_of(epoch)[: min(steps_per_epoch, steps - epoch * steps_per_epoch) * samples_per_step]
            batches = read(order[done * samples_per_step :])
            for inputs, targets in runs.progress(batches, len(order), f"epoch {epoch + 1}", total=total, done=done):
                step = epoch * steps_per_epoch + done
                factor = schedule(step / steps)
                for group, full_rate in zip(optimizer.param_groups, full_rates, strict=True):
                    group["lr"] = full_rate * factor
                seed = data.seed_of("step", scheme.seed, step)  # a step's randomness is its own, whatever came before
                seed_all(seed)
                generator.manual_seed(seed)
                for change in changes:
                    inputs, targets = change(inputs, targets, generator, step / steps)
                if step == 0:
                    pictures.save(folder / "batch.png", task, inputs, targets, meta["classes"])
                for part, wanted in data.parts(inputs, targets, scheme.accumulate):
                    loss = loss_of(part, wanted)
                    scaler.scale(loss).backward(share)
                    total += loss.detach()
                done += 1
                recent.append((inputs, targets, done))
                refuse_if_bad(done, is_bad(total))
                for act in before_step:
                    act()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                for act in after_step:
                    act(step / steps)
                keep_if_due(done)
            refuse_if_bad(done)
            train_loss, seconds = float(total) / (done * scheme.accumulate), time.perf_counter() - started

            # Validation
            if hasattr(optimizer, "eval"):  # of those that have two sets of weights, as schedule-free ones
                optimizer.eval()
            measured = measured_of(model, average)
            if scheme.swa and measured is not model:
                torch.optim.swa_utils.update_bn(read(order), measured, device)
            batches = read_validation(first_batch(validation, debug))
            with autocast:
                each = lambda done=done: keep_if_due(done)  # noqa: E731
                watched = runs.progress(batches, len(validation), "validation", each)
                figures = task.evaluate(measured, watched, metrics)

            # Checkpoint
            is_best = at["best"] is None or rank(figures) > rank(at["best"])
            history.append({"epoch": epoch + 1, "train_loss": train_loss, **figures, "seconds": round(seconds, 3)})
            at.update(epoch=epoch + 1, figures=figures, best=figures if is_best else at["best"])
            at["since_best"] = 0 if is_best else at["since_best"] + 1
            total.zero_()
            keep(0)
            checkpoint.name(folder / runs.CHECKPOINTS, epoch + 1, is_best, saving.save_all_checkpoints)
            runs.report(folder, history, math.ceil(scheme.epochs), is_best, track)
            if is_best:
                shown = next(read_validation(pictures.some_of(len(validation))))
                pictures.save(folder / "predictions.png", task, *shown, meta["classes"], measured)
            runs.obey(folder, asked, f"epoch {epoch + 1}")
        finish(ingredients, functions, folder, model, None if debug else weights, debug)
        runs.obey(folder, asked, "the end")
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
    least = {"accumulate": 1, "patience": 1, "frozen_epochs": 0, "body_rate": 0, "workers": 0, "memory": 0}
    if scheme.batch_size != "auto":
        least["batch_size"] = 1
    wrong = [(name, f"write {low} or more") for name, low in least.items() if getattr(scheme, name) < low]
    above = {"epochs": scheme.epochs, "clip_norm": scheme.clip_norm, "first_size": scheme.first_size}
    wrong += [(name, "write more than 0") for name, value in above.items() if value is not None and value <= 0]
    shares = {"ema": scheme.ema, "swa": scheme.swa}
    wrong += [(name, "write 0 or more, below 1") for name, value in shares.items() if not 0 <= value < 1]
    if scheme.ema and scheme.swa:
        wrong.append(("swa", "ema averages the weights already; set one of them to 0"))
    if scheme.first_size > 1:
        wrong.append(("first_size", "write a share of the size, at most 1"))
    if scheme.frozen_epochs and scheme.frozen_epochs >= scheme.epochs:
        wrong.append(("frozen_epochs", f"the body would never be trained in {scheme.epochs} epochs; write fewer"))
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
    with told_at(ingredients, "training.model.save_name"):
        runs.refuse_unwritable(path.parent)
    return path


def is_over(state: dict, scheme: Scheme) -> bool:
    """Whether a run needs no further epoch."""
    return state["epoch"] >= scheme.epochs or (scheme.early_stop and state["since_best"] >= scheme.patience)


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


READ = {"project.name", "project.meta.task"}  # the settings below [project] that recipes read
RATES = ("lr", "momentum", "weight_decay", "betas")  # of an optimizer: a resumed run takes the ini's


@contextmanager
def told_at(ingredients: Ingredients, path: str):
    """An IngredientsError from inside gets the place of this setting."""
    try:
        yield
    except IngredientsError as error:
        raise located(ingredients, path, str(error)) from error


def prepared(ingredients: Ingredients, path: str, function, *arguments):
    """`function.prepare(*arguments)` of those that have to know more of the run, such as the share of each class."""
    if not hasattr(function, "prepare"):
        return function
    try:
        return function.prepare(*arguments)
    except ValueError as error:
        raise located(ingredients, path, str(error)) from error


def restore(ingredients: Ingredients, folder: Path | None, state: dict | None, parts: dict) -> dict:
    """Where the run stands; `parts` (model, optimizer, ...) get their states. The optimizer's rates are the ini's."""
    if state is None:
        at = {"epoch": 0, "done": 0, "total": torch.zeros(()), "best": None, "since_best": 0, "figures": None}
        return at | {"history": []}
    groups = parts["optimizer"].param_groups
    rates = [{key: group[key] for key in RATES if key in group} for group in groups]
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name] if name in state else state["model"])
    except (RuntimeError, ValueError, KeyError) as error:  # the data or a function changed, though no setting did
        message = f"cannot continue {folder}: {str(error).splitlines()[0]}; write resume = False"
        raise located(ingredients, "training.scheme.resume", message) from error
    for group, kept in zip(parts["optimizer"].param_groups, rates, strict=True):
        group.update(kept)
    return {key: state[key] for key in ("epoch", "done", "total", "best", "since_best", "figures", "history")}


def describe(ingredients: Ingredients, training: data.Samples, n_classes: int) -> dict:
    """What validate and predict need beside the weights."""
    classes = training.classes or [str(index) for index in range(n_classes)]
    return {"ingredients": str(ingredients), "classes": classes, "form": training.form, "shape": training.shape}


def metrics_of(functions: Ingredients, device) -> dict:
    """The metrics of [validation.metrics] by the names of their sections."""
    from pantry.metrics import as_metric

    return {name: as_metric(found).to(device) for name, found in functions.at("validation.metrics", {}).items()}


def introduce(
    folder: Path, training, validation, meta: dict, architecture, model, device, found: dict, new: list
) -> None:
    """What is about to be trained."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    runs.say(folder, data.summary(training, validation, len(meta["classes"])))
    runs.say(folder, f"{architecture.backbone}: {parameters:,} parameters, on {device}")
    if new:
        runs.say(folder, f"not in {architecture.weights}, so left new: {', '.join(new)}")
    for name, value in found.items():
        runs.say(folder, f"{name} = auto: {value}")


def ranking(ingredients: Ingredients, scheme: Scheme, task, metrics: dict) -> tuple:
    """The name of the figure that tells the best epoch, and `rank(figures)`, the larger the better."""
    best, names = scheme.best or task.BEST, [*task.FIGURES, *metrics]
    if best not in names:
        raise located(ingredients, "training.scheme.best", f"there is no such figure. {suggest(best, names)}")
    higher = getattr(metrics.get(best), "higher_is_better", None)
    lowest = best == "loss" if higher is None else not higher
    if scheme.best_is:
        lowest = scheme.best_is == "lowest"
    return best, lambda figures: (-figures[best] if lowest else figures[best], -figures.get("loss", 0.0))


# ------------------------------------------------------------------------------------------- in and after the loop


def first_batch(samples: data.Samples, debug: bool) -> torch.Tensor | None:
    return torch.arange(min(len(samples), 512)) if debug else None


def finish(ingredients: Ingredients, functions: Ingredients, folder: Path, model, weights: Path | None, debug) -> None:
    """Measure the best weights once on the test data; write best and last weights under their names (not in debug)."""
    from recipes.validate import measure

    best = checkpoint.load(folder / runs.CHECKPOINTS / "best.pt")
    if functions.at("testing.load_dataset") is not None:
        model.load_state_dict(best["model"])
        figures, count = measure(ingredients, functions, model, "testing", best["meta"], debug)
        runs.record(folder, split="testing", epoch=best["epoch"], **figures)
        runs.say(folder, f"best epoch {best['epoch']} on {count:,} test samples: {runs.told(figures)}")
    last = checkpoint.load(folder / runs.CHECKPOINTS / "last.pt")
    if weights is not None:
        for path, state in ((weights, best), (weights.with_stem(weights.stem + "-last"), last)):
            kept = {key: value for key, value in state.items() if key not in ("optimizer", "training", "average")}
            checkpoint.save(path, kept)
        runs.say(folder, f"weights: {weights}")
    if facts := unread(ingredients, READ):
        runs.say(folder, f"nothing read: {', '.join(facts)}")
    runs.record(folder, finished=last["epoch"])
    runs.say(folder, f"run: {folder}")
