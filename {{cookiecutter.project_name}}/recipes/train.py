"""Train: the loop, and the state that it carries from step to step.

    python train.py                                     with ingredients.ini
    python train.py other.ini --training.scheme.epochs 3
    python train.py --testing.debug True                one batch of everything
    python train.py --resume                            resume the newest run

What the loop trains is built by recipes/experiment.py; what differs by task is in recipes/<task>.py.
"""

import math
import os
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from core import Ingredients, SettingError
from recipes.experiment import Experiment, build, configure
from recipes.parts import checkpoint, pictures
from recipes.parts.calling import carried, check_loss
from recipes.parts.origins import unused_settings
from recipes.parts.samples import epoch_sampler
from recipes.run import CHECKPOINTS, Run, format_metrics

COUNTS = ("epoch", "step", "history", "best", "since_best", "autotuned")  # of the state, as they are in a checkpoint


@dataclass
class TrainState:
    """What the loop carries from step to step, and a checkpoint holds."""

    experiment: Experiment
    epoch: int = 0  # epochs that are complete
    step: int = 0  # steps of the epoch under way
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(()))  # over these steps
    history: list = field(default_factory=list)  # the metrics of each epoch
    best: dict | None = None  # the metrics of the best epoch
    since_best: int = 0  # epochs
    measured: dict = field(default_factory=dict)  # of the steps of the last epoch: seconds, samples per second, ...
    autotuned: dict = field(default_factory=dict)  # what `auto` chose

    def __post_init__(self):
        self.parameters = list(self.experiment.model.parameters())

    def zero_grad(self) -> None:
        """As `model.zero_grad()`, which looks for the parameters in all modules each time."""
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def eval_model(self) -> torch.nn.Module:
        """The model that is evaluated: that of the averaged weights, once there are any."""
        ema_model = self.experiment.ema_model
        return self.experiment.model if ema_model is None or not ema_model.n_averaged else ema_model.module

    def mean_loss(self) -> float:
        return float(self.loss_sum) / self.step

    def end_epoch(self, metrics: dict, factor: float) -> bool:
        """Count the epoch that is complete, with its last factor of the rate; returns whether it is the best one."""
        rank = self.experiment.selection[1]
        score = rank(metrics)  # of the first epoch too: it refuses a metric that there is not
        is_best = self.best is None or score > rank(self.best)
        rate = max(group["initial_lr"] for group in self.experiment.param_groups) * factor
        line = {"epoch": self.epoch + 1, "train_loss": self.mean_loss(), **metrics, "learning_rate": rate}
        self.history.append(line | self.measured)
        self.epoch, self.step = self.epoch + 1, 0
        self.best, self.since_best = (metrics, 0) if is_best else (self.best, self.since_best + 1)
        self.loss_sum.zero_()
        return is_best

    def state_dict(self) -> dict:
        experiment = self.experiment
        # The rate of a step follows from the step: without it a resumed run writes the same bytes as an unbroken one.
        set_learning_rate(experiment, 1.0)
        state = {name: vars(self)[name] for name in COUNTS} | {"loss_sum": self.loss_sum.cpu(), "meta": experiment.meta}
        state |= {"model": self.eval_model.state_dict(), "scaler": experiment.scaler.state_dict()}
        state["optimizers"] = {name: optimizer.state_dict() for name, optimizer in experiment.optimizers.items()}
        if experiment.ema_model is not None:
            state["training"] = experiment.model.state_dict()
            state["n_averaged"] = experiment.ema_model.n_averaged
        return experiment.full(state)

    def load_state_dict(self, state: dict) -> None:
        from recipes.parts.trained import restore

        for name in COUNTS:
            setattr(self, name, state[name])
        self.loss_sum = state["loss_sum"].to(self.experiment.device)
        restore(self.experiment, self.experiment.spread(state))


def train(ingredients: Ingredients, functions: Ingredients, resume: str | None = None) -> Path:
    """Do one run and return its folder. `functions` are the ingredients with their functions called.

    `resume`: the folder of a run to resume; "" for the newest; None for what the ingredients say.
    """
    experiment = configure(ingredients, functions)
    scheme = experiment.scheme
    if "LOCAL_RANK" in os.environ:  # torchrun has started several processes
        from recipes.parts.parallel import join

        experiment, run = join(experiment)
        resume = run.interrupted or resume
    else:
        run = Run(experiment)
    if (resume is not None or scheme.resume) and not experiment.debug:
        from recipes.parts.trained import resume_run

        if experiment.once(resume_run, run, resume or "", ingredients, scheme):
            run.log(f"{run.folder} is finished after epoch {run.state['epoch']}; raise epochs or patience to continue")
            return run.folder
    build(experiment, new=run.state is None)
    state = TrainState(experiment)
    batch_size = begin(run, state)  # of a step: all its microbatches
    model = experiment.wrap(experiment.model, batch_size)  # DistributedDataParallel under torchrun
    steps_per_epoch = len(experiment.training) // batch_size  # the rest is left out
    steps = max(1, round(scheme.epochs * steps_per_epoch))
    schedule = experiment.schedule(steps_per_epoch, state.history)
    order_of = epoch_sampler(experiment.training, scheme.seed, scheme.balanced)
    read = experiment.read(experiment.training, batch_size)
    read_validation = experiment.read(experiment.validation, experiment.evaluation_batch_size)
    watch = LossWatch(experiment.device)

    with run.translate_oom_and_disk_errors(), run.signals():
        for epoch in range(state.epoch, math.ceil(steps / steps_per_epoch)):
            if scheme.early_stop and state.since_best >= scheme.patience:
                run.log(f"early stop: no better {experiment.selection[0]} for {state.since_best} epochs")
                break

            # Training
            started = time.perf_counter()
            train_mode(experiment, epoch)
            order = order_of(epoch)[: min(steps_per_epoch, steps - epoch * steps_per_epoch) * batch_size]
            batches = read(experiment.share(order[state.step * batch_size :], batch_size))
            for inputs, targets in run.progress(batches, len(order), f"epoch {epoch + 1}", state):
                step = epoch * steps_per_epoch + state.step
                set_learning_rate(experiment, schedule(step / steps))
                experiment.seed("step", step)  # what is random in a step depends on nothing before it
                inputs, targets = experiment.transform(inputs, targets, step / steps)
                if step == 0:
                    pictures.save(run.folder / "batch.png", experiment, inputs, targets)

                for network, optimizer, loss_of in experiment.phases:  # one; of a GAN two, which take turns
                    parts = microbatches(inputs, targets, scheme.accumulate)
                    for part in experiment.last_syncs(parts, model):
                        with experiment.autocast:
                            loss = loss_of(model, *part, experiment.criterion)
                        if state.step == 0:
                            check_loss(loss, experiment)
                        if scheme.accumulate > 1:
                            loss = loss / scheme.accumulate
                        experiment.scaler.scale(loss).backward()
                        state.loss_sum += experiment.mean(loss.detach())
                    if scheme.clip_norm is not None:
                        experiment.scaler.unscale_(optimizer)
                        torch.nn.utils.clip_grad_norm_(network.parameters(), scheme.clip_norm)
                    experiment.scaler.step(optimizer)
                    experiment.scaler.update()
                    state.zero_grad()
                state.step += 1
                if watch.diverged(state.loss_sum, (inputs, targets, state.step)):
                    watch.refuse(run.folder, state, order, batch_size)
                if experiment.ema_model is not None and step / steps >= experiment.ema_start:
                    experiment.ema_model.update_parameters(model)
            if not math.isfinite(state.loss_sum):
                watch.refuse(run.folder, state, order, batch_size)
            state.measured = run.measure(time.perf_counter() - started, experiment.device)

            # Validation
            eval_mode(experiment)
            if scheme.swa and state.eval_model is not experiment.model and not experiment.frozen_norms:
                batches = read(experiment.share(order, batch_size))
                torch.optim.swa_utils.update_bn(batches, state.eval_model, experiment.device)
            experiment.even(state.eval_model)
            batches = read_validation(experiment.some(experiment.validation))
            batches = run.progress(batches, len(experiment.validation), "validation", state)
            is_best = state.end_epoch(
                experiment.evaluate(state.eval_model, batches),
                schedule((epoch * steps_per_epoch + state.step - 1) / steps),
            )

            # Checkpoint
            run.save(state)
            run.name_checkpoint(epoch + 1, is_best)
            run.report(state.history, math.ceil(scheme.epochs), is_best)
            if is_best:
                batches = read_validation(pictures.some_of(len(experiment.validation)))
                pictures.save(run.folder / "predictions.png", experiment, *next(batches), state.eval_model)
            run.exit_if_requested(f"epoch {epoch + 1}")
        finish(run, experiment)
        run.exit_if_requested("the end")
    return run.folder


# ------------------------------------------------------------------------------------------------- before the loop


def begin(run: Run, state: TrainState) -> int:
    """Choose what is `auto`, create the run's folder or restore the state; returns the samples of a step."""
    experiment, scheme = state.experiment, state.experiment.scheme
    train_mode(experiment, 0)
    if run.state is not None:
        state.autotuned = run.state["autotuned"]
    if scheme.batch_size == "auto" and "batch_size" not in state.autotuned:
        from recipes.parts import tune

        state.autotuned["batch_size"] = tune.batch_size(experiment)
    experiment.meta["batch_size"] = state.autotuned.get("batch_size", scheme.batch_size)
    batch_size = min(experiment.meta["batch_size"] * scheme.accumulate, len(experiment.training))
    if scheme.accumulate > batch_size:
        message = f"a step has {batch_size} samples at most, too few for so many batches; lower it"
        raise SettingError("training.scheme.accumulate", message)
    if run.folder is None:  # not before all input has proved good
        run.create(experiment.ingredients)
    is_auto = experiment.ingredients.at("training.optimizer.learning_rate") == "auto"
    if is_auto and "learning_rate" not in state.autotuned:
        from recipes.parts import tune

        plot = run.folder / "learning_rate.png"
        state.autotuned["learning_rate"] = tune.learning_rate(experiment, batch_size, plot)
    for group in experiment.param_groups:
        group["initial_lr"] = group["lr"] * state.autotuned.get("learning_rate", 1.0)
    state.loss_sum = state.loss_sum.to(experiment.device)
    if run.state is not None:
        state.load_state_dict(run.state)
    if experiment.rank == 0 and (tracker := experiment.functions.at("training.tracker")):
        run.tracker = tracker(run.folder, experiment.ingredients)
    introduce(run, state)
    return batch_size


def introduce(run: Run, state: TrainState) -> None:
    """Report what is about to be trained."""
    experiment = state.experiment
    parameters = sum(parameter.numel() for parameter in experiment.model.parameters())
    model = f"{experiment.architecture.backbone}: {parameters:,} parameters, on {experiment.device}"
    for line in [*experiment.notes, model]:
        run.log(line)
    for name, value in state.autotuned.items():
        run.log(f"{name} = auto: {value}")
    if experiment.scheme.workers == "auto" and not experiment.training.in_memory:
        run.log(f"workers = auto: {experiment.workers}")


# ------------------------------------------------------------------------------------------------ in and after the loop


def set_learning_rate(experiment: Experiment, factor: float) -> None:
    for group in experiment.param_groups:
        group["lr"] = group["initial_lr"] * factor


def microbatches(inputs, targets, count: int):
    """A step's batch in `count` parts of (nearly) equal size, whose gradients are accumulated."""
    if count == 1:
        return ((inputs, targets),)
    cuts = [len(inputs) * part // count for part in range(count + 1)]
    return [(inputs[start:end], targets[start:end]) for start, end in pairwise(cuts)]


class LossWatch:
    """`diverged(loss_sum, batch)`: whether the sum of the losses is not finite any more.

    On an accelerator the answer is that of the step before, so that the loop need not wait for this one. `recent` holds
    the batches that may have caused it.
    """

    def __init__(self, device):
        self.device, self.copied = device, None
        self.recent = deque(maxlen=1 if device.type == "cpu" else 2)  # more would push the data out of the cache
        self.held = torch.zeros((), pin_memory=device.type == "cuda")

    def diverged(self, loss_sum, batch) -> bool:
        self.recent.append(batch)
        if self.device.type == "cpu":
            return not math.isfinite(loss_sum)
        if self.copied is not None:
            self.copied.synchronize()
        bad = not math.isfinite(self.held)
        self.held.copy_(loss_sum.detach(), non_blocking=True)
        self.copied = torch.Event(self.device)
        self.copied.record()
        return bad

    def refuse(self, *facts):
        """Raise an error that says where to look, and keep the batches; see refuse_loss."""
        from recipes.parts.failures import refuse_loss

        refuse_loss(self.recent, *facts)


def train_mode(experiment: Experiment, epoch: int) -> None:
    """Let model and optimizer train; the body stays frozen in the first epochs where that is asked for."""
    experiment.model.train()
    if experiment.scheme.frozen_epochs:
        from recipes.parts.finetune import freeze, head

        freeze(experiment.model, head(experiment.model), epoch < experiment.scheme.frozen_epochs)
    for norm in experiment.frozen_norms:
        norm.eval().requires_grad_(False)
    for optimizer in experiment.optimizers.values():
        if train_weights := carried(optimizer, "train"):
            train_weights()


def eval_mode(experiment: Experiment) -> None:
    """Put the weights that are evaluated in place, if the optimizer has two sets; `evaluate` does so for the model."""
    for optimizer in experiment.optimizers.values():
        if eval_weights := carried(optimizer, "eval"):
            eval_weights()


def finish(run: Run, experiment: Experiment) -> None:
    """Name the weights; evaluate the best ones once on the test data."""
    best, last = experiment.once(save_weights, run)
    experiment.model.load_state_dict(experiment.spread(best)["model"])
    if experiment.has_testing:
        metrics, count = experiment.evaluate_split("testing", run.progress)
        run.record(split="testing", epoch=best["epoch"], **metrics)
        run.log(f"best epoch {best['epoch']} on {count:,} test samples: {format_metrics(metrics)}")
    if unused := unused_settings(experiment.ingredients):
        run.log(f"unused settings: {', '.join(unused)}")
    run.record(finished=last["epoch"])
    experiment = experiment.alone(experiment, best)
    if run.reporter:
        from recipes.parts.evaluation import evaluate_run

        evaluate_run(experiment, "validation", run.folder / "evaluation", run.progress, experiment.validation)
        run.close_page()
    run.log(f"run: {run.folder}")


def save_weights(run: Run) -> list[dict]:
    """Save best and last weights under their names; returns what is saved."""
    saved = []
    for path, name in zip(run.weights, ("best.pt", "last.pt"), strict=True):
        state = checkpoint.load(run.folder / CHECKPOINTS / name)
        saved.append({key: state[key] for key in state if key not in ("optimizers", "training")})
        if not run.debug:
            checkpoint.save(path, saved[-1])
    if not run.debug:
        run.log(f"weights: {run.weights[0]}")
    return saved
