"""Ingredients -> Experiment: device, data, model, loss, optimizer, schedule, metrics, each built once.

Training, --check (on the meta device), validate and predict take them from here.
"""

import ctypes
import importlib
import os
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch

from core import Ingredients, IngredientsError, SettingError, registry
from core.errors import Problem, suggest
from core.ingredients import call_key
from recipes.parts import samples as data
from recipes.parts.calling import Metrics, blame, carried, prepared
from recipes.parts.origins import sections
from recipes.parts.samples import Samples
from recipes.settings import Architecture, Saving, Scheme, Testing, read_section


@dataclass
class Experiment:
    """What a run is made of. `configure` fills in the settings, `build` the rest."""

    ingredients: Ingredients
    functions: Ingredients  # the ingredients with their functions called
    scheme: Scheme
    saving: Saving
    architecture: Architecture
    debug: bool
    task: ModuleType
    device: torch.device | None = None
    metrics: Metrics = field(default_factory=Metrics)
    selection: tuple = ()  # (name of the metric that selects the best epoch, rank(metrics), the larger the better)

    training: Samples | None = None
    validation: Samples | None = None
    meta: dict = field(default_factory=dict)  # what validate and predict need besides the weights
    outputs: int = 0  # of the network: classes, or numbers
    model: torch.nn.Module | None = None
    fetch: bool = True  # whether weights may be downloaded
    notes: list[str] = field(default_factory=list)  # to be printed before training; the first is about the data
    held_back: bool = False  # whether validation is a share of training
    has_testing: bool = False  # whether there is test data
    frozen_norms: list = field(default_factory=list)  # batch norms that stay as they were loaded
    augment: object = None
    criterion: object = None
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)  # one, "", unless the task has LOSSES
    phases: list[tuple] = field(default_factory=list)  # of a step: (network, its optimizer, its loss)
    scaler: torch.amp.GradScaler | None = None
    autocast: object = None
    ema_model: torch.nn.Module | None = None
    ema_start: float = 0.0  # share of training from which on weights are averaged
    seed_all: object = None  # seeds the generators that layers draw from
    generator: torch.Generator | None = None  # for augmentation, on the device
    rank: int = 0  # of this process among those that train together

    # Under torchrun recipes/parts/parallel.py does more than to return the first argument.
    shard = wrap = share = last_syncs = mean = even = full = spread = alone = staticmethod(lambda first, *_: first)

    def once(self, function, run, *facts):
        """The result of `function(run, *facts)`, which under torchrun one process calls for all."""
        return function(run, *facts)

    @property
    def param_groups(self) -> list[dict]:
        """Those of all optimizers."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def preprocess(self, split: str) -> tuple:
        """(the preprocess of a split, its section); without one, the section that loads the split."""
        for section in ["testing.preprocess", "training.preprocess"][split != "testing" :]:
            if function := self.functions.at(section):
                return function, section
        return data.scale, f"{split}.load_dataset"

    def load(self, split: str) -> Samples | None:
        """The samples of a split that has a section of its own; None if its source lacks the split."""
        section = f"{split}.load_dataset"
        loader = self.functions.at(section)
        if loader is None:
            raise SettingError(section, f"missing; add [{section}] with @load_dataset = load_image_folder, or your own")
        with blame(section):
            return data.load(loader, *self.preprocess(split), memory=self.scheme.memory, optional=split != "training")

    def read(self, samples: Samples, batch_size: int):
        """`read(order=None) -> batches` on the device."""
        return data.reader(samples, batch_size, self.device, 0 if samples.in_memory else self.workers)

    @cached_property
    def workers(self) -> int:
        """Processes that read samples that are not kept in memory."""
        from recipes.parts.workers import choose_workers

        return choose_workers(self.training) if self.scheme.workers == "auto" else self.scheme.workers

    @property
    def evaluation_batch_size(self) -> int:
        """That of training unless it is set: what fits there fits in evaluation."""
        return self.scheme.evaluation_batch_size or self.meta.get("batch_size", 1)

    def seed(self, purpose: str, *key: int) -> None:
        """Seed all generators by (purpose, seed of the experiment, key) alone."""
        seed = data.seed_of(purpose, self.scheme.seed, *key)
        self.seed_all(seed)
        if self.augment:
            self.generator.manual_seed(seed)

    def transform(self, inputs, targets, progress: float) -> tuple:
        """A batch as it is trained on: resized while images grow, then augmented."""
        if self.scheme.first_size < 1:
            inputs = resize_progressively(inputs, self.scheme.first_size, progress)
        if not self.augment:
            return inputs, targets
        with blame("training.augment", inputs):
            return self.augment(inputs, targets, self.generator)

    def some(self, samples: Samples) -> torch.Tensor | None:
        """The indices that an evaluation reads: all (None), or one batch for debugging."""
        return torch.arange(min(len(samples), self.evaluation_batch_size)) if self.debug else None

    def evaluate(self, model, batches, views=None) -> dict[str, float]:
        with self.autocast:
            return self.task.evaluate(model, batches, self.metrics, views) | self.metrics.compute()

    def load_checked(self, split: str) -> Samples:
        """The samples of a split for evaluation. Refuses data that is unlike that of training."""
        samples = self.load(split) if split == "testing" else load_splits(self)[split == "validation"]
        with blame(f"{split}.load_dataset"):
            if samples is None:
                raise IngredientsError(f"found no such split in {self.ingredients.at(f'{split}.load_dataset.source')}")
            self.task.check_split(f"{split}.load_dataset", samples, self.meta)
        if samples.shape != self.meta["shape"]:
            print(f"note: a sample of {split} is {samples.shape}, but the network was trained on {self.meta['shape']}")
        return samples

    def evaluate_split(self, split: str, progress) -> tuple[dict[str, float], int]:
        """(metrics, number of samples) of the model on a split; `progress(batches, count, text) -> batches`."""
        order = self.some(samples := self.load_checked(split))
        batches = self.read(samples, self.evaluation_batch_size)(order)
        views = self.functions.at(f"{split}.views")
        count = min(len(samples), self.evaluation_batch_size) if self.debug else len(samples)
        return self.evaluate(self.model, progress(batches, count, split), views), count

    def schedule(self, steps_per_epoch: int, history: list[dict]):
        """`factor(progress)` of the learning rate."""
        schedule = self.functions.at("training.schedule") or registry.schedule.get("one_cycle")()
        return prepared("training.schedule", schedule, self.scheme.epochs, steps_per_epoch, history)


def configure(ingredients: Ingredients, functions: Ingredients, device: str | None = None, blame=blame) -> Experiment:
    """Read the settings and refuse what can be refused without data.

    device: in place of the one that the ingredients name
    blame: what turns an error into one of a setting; --check collects them instead
    """
    scheme = read_section(ingredients, "training.scheme", Scheme)
    experiment = Experiment(
        ingredients=ingredients,
        functions=functions,
        scheme=scheme,
        saving=read_section(ingredients, "training.model", Saving),
        architecture=read_section(ingredients, "model.architecture", Architecture),
        debug=read_section(ingredients, "testing", Testing).debug,
        task=load_task(ingredients),
    )
    with blame("training.scheme"):
        check_settings(ingredients, scheme, experiment.task)
    if experiment.debug:  # one step, in this process
        experiment.scheme = replace(scheme, epochs=1e-9, workers=0)
    with blame("model.architecture.backbone"):
        experiment.task.check(experiment.architecture, scheme)
    with blame("training.scheme.device"):
        experiment.device = torch.device(device) if device else choose_device(scheme.device)
    with blame("validation.metrics"):
        if made := functions.at("validation.metrics"):
            from recipes.parts.own_metrics import build_metrics

            experiment.metrics = build_metrics(made, experiment.task.METRICS, experiment.device)
    if not carried(experiment.task, "metrics_of"):  # else the data has to be known first
        with blame("training.scheme.best"):
            experiment.selection = select_by(scheme, experiment.task, experiment.metrics)
    return experiment


def build(experiment: Experiment, meta: dict | None = None, new: bool = True, blame=blame) -> Experiment:
    """Build the parts of a configured experiment.

    meta: that of a checkpoint; the model alone is built then, without data, for validate and predict
    new: False if the weights come from a checkpoint
    blame: as of `configure`
    """
    if meta is not None:
        experiment.meta, experiment.outputs = meta, len(meta["classes"])
        _build_model(experiment, new=False)
        return experiment
    _load_data(experiment, blame)
    with blame("model.architecture.backbone"):
        if experiment.outputs:  # else not known; --check has collected why
            _build_model(experiment, new)
    if experiment.model is not None:
        _build_training(experiment, blame)
    return experiment


def load_splits(experiment: Experiment) -> tuple[Samples, Samples]:
    """(training, validation); validation is a share of training if no section loads it, or finds none."""
    functions, scheme = experiment.functions, experiment.scheme
    download = functions.at("project.data.download")
    if download is not None:
        with blame("project.data.download"):
            download()
    training = experiment.load("training")
    is_loaded = functions.at("validation.load_dataset") is not None and not scheme.fold
    validation = experiment.load("validation") if is_loaded else None
    experiment.held_back = validation is None
    if validation is None:
        return data.split_off(training, scheme.validation_fraction, scheme.seed, scheme.fold)
    return training, validation


def _load_data(experiment: Experiment, blame) -> None:
    task = experiment.task
    training, validation = load_splits(experiment)
    with blame("training.load_dataset"):
        experiment.outputs = task.check_data(experiment.architecture, training)
    with blame("testing.preprocess"):
        check_test_preprocess(training, experiment.preprocess("testing")[0])
    if carried(task, "metrics_of") and experiment.outputs:  # else not known; --check has collected why
        with blame("training.scheme.best"):
            computed = task.metrics_of(experiment.outputs)
            experiment.selection = select_by(experiment.scheme, task, experiment.metrics, computed)
    classes = training.classes or [str(index) for index in range(experiment.outputs)]
    experiment.meta = {
        "ingredients": str(experiment.ingredients),
        "classes": classes,
        "input_format": training.input_format,
        "shape": training.shape,
    }
    with blame("validation.load_dataset"):
        task.check_split("validation.load_dataset", validation, experiment.meta)
    experiment.notes.append(data.summary(training, validation, len(classes)))
    with blame("testing.load_dataset"):
        testing = check_testing(experiment)
        experiment.has_testing = testing is not None
        if experiment.ingredients.at("testing.load_dataset.optional"):
            from recipes.parts.splits import describe_splits

            experiment.notes[0] += f"\n{describe_splits(experiment, training, validation, testing)}"
    experiment.training, experiment.validation = training, validation


def check_testing(experiment: Experiment) -> Samples | None:
    """The test data as far as its loader's `check` goes, if it has one: what does not fit is refused before training.

    None without test data; nothing of it is used.
    """
    loader = experiment.functions.at("testing.load_dataset")
    if loader is None:
        return None

    def look():
        if check := carried(loader, "check"):
            with suppress(IngredientsError):  # a download may be due; if not, loading raises it again
                return check()
        return loader()

    optional = bool(experiment.ingredients.at("testing.load_dataset.optional"))
    testing = data.load(look, *experiment.preprocess("testing"), memory=0.0, optional=optional)
    if testing is not None:
        experiment.task.check_split("testing.load_dataset", testing, experiment.meta)
    return testing


def _build_model(experiment: Experiment, new: bool) -> None:
    scheme, architecture = experiment.scheme, experiment.architecture
    keep_freed_memory()
    experiment.seed_all = seeder(experiment.device, scheme.deterministic)
    experiment.generator = torch.Generator("cpu" if experiment.device.type == "meta" else experiment.device)
    experiment.seed("model")
    try:
        with torch.device("meta" if experiment.device.type == "meta" else "cpu"):
            model = experiment.task.build_model(architecture, experiment.meta["shape"], experiment.outputs)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        message = f"cannot take samples of {experiment.meta['shape']}: {str(error).splitlines()[0]}"
        raise SettingError("model.architecture.backbone", message) from error
    model.class_names = experiment.meta["classes"]  # by which metrics of single classes are named
    if architecture.weights and new:
        from recipes.parts.weights import load_weights

        ingredients = None if "training.preprocess.mean" in experiment.task.REFUSED else experiment.ingredients
        facts = architecture.weights, architecture.backbone, architecture.options, ingredients
        with blame("model.architecture.weights"):
            experiment.notes.append(load_weights(model, *facts, fetch=experiment.fetch))
    # Convolutions run up to twice as fast with the channels last, on CPUs too.
    experiment.model = model.to(experiment.device, memory_format=torch.channels_last)
    experiment.autocast, experiment.scaler = build_amp(scheme.precision, experiment.device)


def _build_training(experiment: Experiment, blame) -> None:
    """Loss, augmentation, optimizer, mixed precision, averaged weights."""
    functions, scheme, model, device = experiment.functions, experiment.scheme, experiment.model, experiment.device
    if experiment.architecture.recompute:
        from recipes.parts.finetune import recompute

        with blame("model.architecture.recompute"):
            recompute(model, experiment.architecture.recompute)
    with blame("training.augment"):
        experiment.augment = functions.at("training.augment")
        if experiment.augment and (adapt := carried(experiment.task, "adapt_augment")):
            experiment.augment = adapt(experiment.augment)
        if per_sample := carried(experiment.augment, "per_sample"):
            from recipes.parts.workers import augmented

            experiment.training = augmented(experiment.training, per_sample, scheme.seed)
    splits = experiment.training, experiment.validation
    experiment.training, experiment.validation = (samples.to(device) for samples in splits)
    with blame("training.loss"):
        criterion = functions.at("training.loss") or experiment.task.default_loss()
        facts = experiment.training.targets, experiment.outputs, device
        experiment.criterion = prepared("training.loss", criterion, *facts)
    if scheme.frozen_norms is True or (scheme.frozen_norms == "auto" and experiment.architecture.weights):
        from recipes.parts.finetune import freeze_norms

        with blame("training.scheme.frozen_norms"):
            experiment.frozen_norms = freeze_norms(model, scheme.frozen_norms, len(experiment.training))
        if experiment.frozen_norms:
            experiment.notes.append(f"frozen: {len(experiment.frozen_norms)} batch norms of the body")
    experiment.shard(model)
    with blame("training.optimizer"):
        build_optimizer = functions.at("training.optimizer") or registry.optimizer.get("sgd")()
        losses = carried(experiment.task, "LOSSES") or [("", experiment.task.loss)]
        networks = {name: model.get_submodule(name) for name, _ in losses}  # "" is all of it
        experiment.optimizers = {name: build_optimizer(network) for name, network in networks.items()}
        experiment.phases = [(networks[name], experiment.optimizers[name], loss) for name, loss in losses]
        if scheme.body_rate != 1 or scheme.frozen_epochs:  # fused optimizers need a frozen body in groups of its own
            from recipes.parts.finetune import head, split_rates

            for optimizer in experiment.optimizers.values():
                split_rates(optimizer, list(head(model).parameters()), scheme.body_rate)
    with blame("training.augment"):
        try_transforms(experiment)
    if device.type != "meta":
        experiment.ema_model, experiment.ema_start = build_ema(model, scheme), 1 - scheme.swa if scheme.swa else 0.0
        if scheme.compile:
            model.compile()


# ------------------------------------------------------------------------------------------------------------ settings


def load_task(ingredients: Ingredients) -> ModuleType:
    """The module recipes/<task>.py that [project.meta] task names."""
    name = ingredients.at("project.meta.task", "classification")
    files = Path(__file__).parent.glob("*.py")
    names = [path.stem for path in files if "\nBEST = " in path.read_text(encoding="utf-8")]
    if name not in names:
        raise SettingError("project.meta.task", f"there is no such task. {suggest(str(name), names)}")
    return importlib.import_module(f"recipes.{name}")


def check_settings(ingredients: Ingredients, scheme: Scheme, task: ModuleType) -> None:
    """Refuse settings that do not go together, or not with this task, all at once."""
    wrong = []
    if scheme.ema and scheme.swa:
        wrong.append(("training.scheme.swa", "ema averages the weights already; set one of them to 0"))
    if scheme.frozen_epochs and scheme.frozen_epochs >= scheme.epochs:
        message = f"the body would never be trained in {scheme.epochs} epochs; freeze fewer"
        wrong.append(("training.scheme.frozen_epochs", message))
    for path, reason in task.REFUSED.items():
        off = vars(Scheme).get(path.removeprefix("training.scheme."))
        if ingredients.at(path, off) not in (off, None):
            wrong.append((path, reason))
    for path in sections(ingredients):
        called = call_key(ingredients.at(path))
        if called and ingredients.at(path)[called] in task.REFUSED:
            wrong.append((f"{path}.{called}", task.REFUSED[ingredients.at(path)[called]]))
    if wrong:
        raise IngredientsError([Problem(None, path, "", message) for path, message in wrong])


def select_by(scheme: Scheme, task: ModuleType, metrics: dict, computed: tuple = ()) -> tuple:
    """The name of the metric that selects the best epoch, and `rank(metrics)`, the larger the better.

    computed: the names of those of the task, if not all METRICS
    """
    best, names = scheme.best or task.BEST, [*(computed or task.METRICS), *metrics]
    if best not in names:
        raise SettingError("training.scheme.best", f"there is no such metric. {suggest(best, names)}")
    higher = carried(metrics.get(best), "higher_is_better")
    lowest = best == "loss" if higher is None else not higher
    if scheme.best_is:
        lowest = scheme.best_is == "lowest"

    def rank(values: dict[str, float]) -> tuple[float, float]:
        if best not in values:
            raise SettingError("training.scheme.best", f"this run has no such metric. {suggest(best, values)}")
        return -values[best] if lowest else values[best], -values.get("loss", 0.0)

    return best, rank


def check_test_preprocess(training: Samples, preprocess) -> None:
    """Refuse a preprocess of test data that makes something else of a sample than that of training."""
    first, tested = training.first, data.as_input(preprocess(training.raw))
    if (tested.dtype, tested.ndim, tested.shape[:-2]) != (first.dtype, first.ndim, first.shape[:-2]):
        told = f"{tested.dtype} {list(tested.shape)}, but {first.dtype} {list(first.shape)} in training"
        raise IngredientsError(f"a sample becomes {told}")


def try_transforms(experiment: Experiment) -> None:
    """Refuse a first_size or an augment whose images the network cannot take."""
    samples, grows = experiment.training, experiment.scheme.first_size < 1
    if not grows and not experiment.augment:
        return
    inputs, targets = next(data.reader(samples, 2, experiment.generator.device)(torch.arange(min(2, len(samples)))))
    experiment.seed("try")
    augmented, _ = experiment.transform(inputs, targets, 1.0)
    if augmented.ndim != inputs.ndim:  # of images, given rows
        raise SettingError("training.augment", f"turns {list(inputs.shape)} into {list(augmented.shape)}")
    tried = {"training.augment": augmented}
    if grows and inputs.ndim == 4:
        tried["training.scheme.first_size"] = resize_progressively(inputs, experiment.scheme.first_size, 0.0)
    for path, changed in tried.items():
        if list(changed.shape[1:]) != experiment.meta["shape"]:
            with blame(path, changed), torch.inference_mode():
                experiment.model.eval()(changed.to(experiment.device))


# ------------------------------------------------------------------------------------------------- device and numbers


def choose_device(name: str) -> torch.device:
    """The device of that name; auto: the accelerator if there is one, else the CPU."""
    if name == "auto":
        # check_available: without it torch names cuda on a machine that has no GPU
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        message = f"not available ({str(error).splitlines()[0]}); set it to auto or cpu"
        raise SettingError("training.scheme.device", message) from None
    if device.type == "meta":
        raise SettingError("training.scheme.device", "computes no numbers; expected auto, cpu, cuda, cuda:1 or mps")
    return device


def seeder(device, deterministic: bool):
    """`seed_all(seed)` for the generators that layers such as dropout draw from."""
    if device.type == "cpu":
        return torch.default_generator.manual_seed  # a tenth of the time of torch.manual_seed
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.manual_seed


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it after each step: a fifth of a step's time on CPUs."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        try:
            libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        except AttributeError:  # another C library
            return


def build_amp(precision: str, device) -> tuple:
    """(autocast context of the forward pass, scaler of the loss)."""
    if precision == "auto":
        if device.type == "cpu":
            fast = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16")  # PyTorch 2.11 and newer
        else:
            fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "float32"
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    if precision == "float32":
        return nullcontext(), scaler
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16), scaler


def build_ema(model, scheme: Scheme):
    """The averaged weights, exponentially (ema) or evenly (swa), that are evaluated; None if both are off."""
    if not (scheme.ema or scheme.swa):
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(scheme.ema) if scheme.ema else None)


def resize_progressively(inputs, first_size: float, progress: float):
    """Images that grow from this share of their size to all of it at half of training (Tan and Le 2021, 2104.00298)."""
    share = min(1.0, first_size + (1 - first_size) * 2 * progress)
    size = [max(1, round(length * share)) for length in inputs.shape[-2:]]
    return torch.nn.functional.interpolate(inputs, size, mode="bilinear", antialias=True)
