"""Optimizers and schedules: ours against their formulas, torch's by name against torch itself."""

import copy
import inspect
import io
import sys

import pantry  # noqa: F401  (registers)
import pytest
import torch
import torch.optim.lr_scheduler as schedulers
from core import IngredientsError, parse_string, registry, resolve
from pantry import optimizers, schedules


def made(shelf, name, /, **settings):
    """What `[x] @shelf = name` gives with those settings, written as in a file."""
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return resolve(parse_string("\n".join(["[x]", f"@{shelf} = {name}", *lines])))["x"]


def network(seed=0, memory_format=torch.channels_last):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False),  # before a norm its gradient would be rounding alone
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 3, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 6),
        torch.nn.Linear(6, 2),
    )
    return model.to(memory_format=memory_format)


def train(model, optimizer, steps=range(3)):
    """A few steps on random images; the weights afterwards."""
    for step in steps:
        images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(build, **how):
    model = network(**how)
    optimizer = build(model)
    getattr(optimizer, "train", bool)()
    return train(model, optimizer)


CHANGES = {  # for each optimizer: for each setting another value
    "sgd": {"learning_rate": 0.05, "momentum": 0.5, "nesterov": False, "weight_decay": 0.1},
    "adamw": {"learning_rate": 0.01, "betas": [0.8, 0.9], "weight_decay": 0.5},
    "muon": {
        "learning_rate": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.5,
        "rest_learning_rate": 0.01,
        "rest_betas": [0.5, 0.6],
    },
    "schedule_free": {
        "kind": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.5,
        "weight_decay": 0.5,
        "warmup_steps": 4,
    },
}


def test_every_optimizer_and_setting_is_tried_below():
    ours = {
        name for name in registry.optimizer if inspect.unwrap(registry.optimizer.get(name)).__module__[:6] == "pantry"
    }
    assert set(CHANGES) == ours - {name for name in ours if "." in name}
    for name, changes in CHANGES.items():
        assert set(changes) == set(inspect.signature(registry.optimizer.get(name)).parameters)


@pytest.mark.parametrize("name, setting", [(name, key) for name, changes in CHANGES.items() for key in changes])
def test_each_setting_changes_the_training(name, setting):
    if name == "schedule_free":
        pytest.importorskip("schedulefree")
    plain = trained(made("optimizer", name))
    assert not torch.equal(plain, trained(made("optimizer", name, **{setting: CHANGES[name][setting]})))
    assert torch.equal(plain, trained(made("optimizer", name)))


@pytest.mark.parametrize("name", CHANGES)
def test_a_saved_optimizer_goes_on_to_the_last_bit(name):
    if name == "schedule_free":
        pytest.importorskip("schedulefree")

    def modes(optimizer, name):
        getattr(optimizer, name, bool)()

    model = network()
    optimizer = made("optimizer", name)(model)
    modes(optimizer, "train")
    train(model, optimizer, range(3))
    modes(optimizer, "eval")
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    again = network(seed=1)
    other = made("optimizer", name)(again)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again.load_state_dict(weights)
    other.load_state_dict(state)
    modes(optimizer, "train")
    modes(other, "train")
    assert torch.equal(train(model, optimizer, range(3, 6)), train(again, other, range(3, 6)))


@pytest.mark.parametrize("name, cls", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_one_kernel_takes_the_steps_of_torch(name, cls):
    optimizer = made("optimizer", name)(network())
    assert all(group["fused"] for group in optimizer.param_groups)
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    decay = 5e-4 if name == "sgd" else 0.01

    def plain(model):
        return cls(optimizers.decay_groups(model, decay), **settings)

    assert torch.allclose(trained(made("optimizer", name)), trained(plain), atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_first_step_that_fp16_skips_leaves_no_trace(name):
    models = [network(), network()]
    for model, is_skipped_first in zip(models, (True, False), strict=True):
        optimizer, scaler = made("optimizer", name)(model), torch.amp.GradScaler("cpu", init_scale=2.0)
        for gradient in [float("inf")] * is_skipped_first + [1.0]:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            scaler.scale(torch.zeros(()))  # creates its state, which a step needs
            scaler.unscale_(optimizer)
            for parameter in model.parameters():
                parameter.grad.fill_(gradient)  # not scaled any more
            scaler.step(optimizer)
            scaler.update()
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_of_another_memory_format_is_read_by_number_and_not_by_address(name):
    models = [network(memory_format=torch.contiguous_format), network()]
    built = [made("optimizer", name)(model) for model in models]
    train(models[0], built[0])
    models[1].load_state_dict(models[0].state_dict())
    built[1].load_state_dict(copy.deepcopy(built[0].state_dict()))
    first, second = (train(*pair, range(3, 6)) for pair in zip(models, built, strict=True))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_skips_norms_and_biases(name):
    model = network()
    model[5].weight.requires_grad = False
    decayed, spared = made("optimizer", name, weight_decay=0.3)(model).param_groups
    assert decayed["weight_decay"] == 0.3 and [p.ndim for p in decayed["params"]] == [4, 4, 2]
    assert spared["weight_decay"] == 0 and [p.ndim for p in spared["params"]] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_rate_to_be_found_is_one_until_then(name):
    assert {group["lr"] for group in made("optimizer", name, learning_rate="auto")(network()).param_groups} == {1.0}


# Muon


def test_muon_is_that_of_torch_on_a_matrix():
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(6, 9, bias=False), torch.nn.Linear(9, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = made("optimizer", "muon", learning_rate=0.05, weight_decay=0.1)(ours)
    other = torch.optim.Muon([theirs[0].weight], lr=0.05, weight_decay=0.1, momentum=0.95)
    for step in range(4):
        gradient = torch.randn(9, 6, generator=torch.Generator().manual_seed(step))
        ours[0].weight.grad, theirs[0].weight.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    assert torch.equal(ours[0].weight, theirs[0].weight)


def test_muon_moves_hidden_matrices_and_adamw_the_rest():
    model = network()
    muon, matrices, vectors = made("optimizer", "muon")(model).param_groups
    assert [p.shape for p in muon["params"]] == [(8, 3, 3, 3), (4, 8, 3, 3), (6, 64)]
    assert [p.shape for p in matrices["params"]] == [(2, 6)] and len(vectors["params"]) == 4
    assert [group["lr"] for group in (muon, matrices, vectors)] == [0.02, 3e-4, 3e-4]
    assert [group["weight_decay"] for group in (muon, matrices, vectors)] == [0.01, 0.01, 0]


def test_the_rest_moves_as_under_adamw():
    ours, theirs = network(), network()
    mine = made("optimizer", "muon", learning_rate=0)(ours)
    rest = [p for group in mine.param_groups[1:] for p in group["params"]]
    names = [name for name, p in ours.named_parameters() if any(p is other for other in rest)]
    chosen = [dict(theirs.named_parameters())[name] for name in names]
    groups = [
        {"params": [p for p in chosen if (p.ndim > 1) == big], "weight_decay": 0.01 * big} for big in (True, False)
    ]
    other = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95))
    assert torch.allclose(train(ours, mine), train(theirs, other), atol=1e-7)


def test_muon_reshapes_kernels_of_any_memory_format():
    assert torch.allclose(
        trained(made("optimizer", "muon")),
        trained(made("optimizer", "muon"), memory_format=torch.contiguous_format),
        atol=5e-3,  # torch computes in bfloat16
    )


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_muon_moves_kernels_of_one_pixel(memory_format):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.Conv2d(4, 2, 1, bias=False))
    optimizer = made("optimizer", "muon")(model.to(memory_format=memory_format))
    matrix = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
    other = made("optimizer", "muon")(matrix)
    for kernel, weight in zip(model.parameters(), matrix.parameters(), strict=True):
        weight.data.copy_(kernel.data[..., 0, 0])
        weight.grad = torch.ones_like(weight).tril()
        kernel.grad = weight.grad[..., None, None].clone(memory_format=memory_format)
    optimizer.step()
    other.step()
    assert torch.equal(model[0].weight[..., 0, 0], matrix[0].weight)


# Those of torch by name

CLASSES = [
    value
    for value in vars(torch.optim).values()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
]
REFUSED = {
    "Optimizer": "is not an optimizer",
    "LBFGS": "needs a closure",
    "SparseAdam": "sparse gradients",
    "Muon": "use muon",
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_optimizer_of_torch_works_by_its_name_or_says_why_not(cls):
    name = f"torch.optim.{cls.__name__}"
    if cls.__name__ in REFUSED:
        with pytest.raises(IngredientsError, match=f"<text>:2: x\n.*{REFUSED[cls.__name__]}"):
            made("optimizer", name)
        return

    def plain(model):
        if "weight_decay" not in inspect.signature(cls).parameters:
            return cls(model.parameters(), lr=0.003)
        return cls(optimizers.decay_groups(model, 0.2), lr=0.003)

    decay = {} if "weight_decay" not in inspect.signature(cls).parameters else {"weight_decay": 0.2}
    assert torch.equal(trained(made("optimizer", name, lr=0.003, **decay)), trained(plain))
    with pytest.raises(
        IngredientsError, match=r"<text>:2: x\n .*[Ii]nvalid learning rate|<text>:2: x\n .*earning rate"
    ):
        made("optimizer", name, lr=-1)
    with pytest.raises(IngredientsError, match="x.lr = fast\n.*expected a number"):
        made("optimizer", name, lr="fast")


def test_arguments_of_torch_are_checked_by_name_and_turned_to_tuples():
    with pytest.raises(IngredientsError, match="x.momentm = 0.9\n    no such argument. Did you mean momentum?"):
        made("optimizer", "torch.optim.RMSprop", momentm=0.9)
    with pytest.raises(IngredientsError, match="no such argument"):
        made("optimizer", "torch.optim.RMSprop", params=[])
    optimizer = made("optimizer", "torch.optim.Adam", betas=[0.8, 0.9])(network())
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert made("optimizer", "torch.optim.AdamW")(network()).param_groups[0]["weight_decay"] == 0.01
    with pytest.raises(IngredientsError, match="torch.optim.lr_scheduler.StepLR"):
        made("optimizer", "torch.optim.lr_scheduler.StepLR")


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("muon", {"momentum": 1}, r"momentum = 1\n.*must be in \[0, 1\)"),
        ("muon", {"rest_betas": [0.9]}, r"rest_betas = \[0.9\]: must be two numbers"),
        ("muon", {"rest_learning_rate": -1}, r"rest_learning_rate = -1\n.*must be in \[0, inf\)"),
        ("adamw", {"betas": [1, 1]}, r"betas = \[1, 1\]\n.*must be in \[0, 1\)"),
        ("schedule_free", {"momentum": 0}, r"momentum = 0\n.*must be in \(0, 1\)"),
        ("schedule_free", {"kind": "adam"}, "Did you mean adamw?"),
    ],
)
def test_wrong_settings_are_refused_with_the_mend(name, settings, message):
    if name == "schedule_free":
        pytest.importorskip("schedulefree")
    with pytest.raises(IngredientsError, match=message):
        made("optimizer", name, **settings)


def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(IngredientsError, match="<text>:2: x\n.*python -m pip install schedulefree"):
        made("optimizer", "schedule_free")


# Schedules


def test_own_schedules():
    factor = schedules.one_cycle(warmup=0.2, start=0.1)
    assert [factor(0), factor(0.2), factor(1)] == [0.1, 1.0, 0.0] and factor(0.6) == pytest.approx(0.5)
    assert schedules.one_cycle(warmup=0.0)(0.0) == 1
    factor = schedules.cosine(warmup=0.1, end=0.2)
    assert [factor(0), factor(0.1), factor(1)] == [0, 1, 0.2] and factor(0.55) == pytest.approx(0.6)
    factor = schedules.linear(warmup=0.2, end=0.1)
    assert [factor(0), factor(0.1), factor(0.2)] == [0, 0.5, 1]
    assert [factor(0.6), factor(1)] == pytest.approx([0.55, 0.1])
    factor = schedules.constant(warmup=0.5)
    assert [factor(0), factor(0.25), factor(0.5), factor(0.9)] == [0, 0.5, 1, 1]
    factor = schedules.step(milestones=[0.5, 0.8], gamma=0.5)
    assert [factor(0.49), factor(0.5), factor(0.79), factor(0.8)] == [1, 0.5, 0.5, 0.25]
    with pytest.raises(IngredientsError, match=r"milestones = \[0.5, 60\]\n.*must be in \[0, 1\)"):
        made("schedule", "step", milestones=[0.5, 60])


RATE, EPOCHS, STEPS = 0.3, 12, 5  # the optimizer's, the run's
SHARES = {"eta_min", "min_lr", "base_lr", "max_lr"}  # of the rate; torch itself is given RATE times that
CASES = {
    "StepLR": [{"step_size": 3, "gamma": 0.5}, {"step_size": 3, "every": "step"}],
    "MultiStepLR": [{"milestones": [2, 7]}],
    "ConstantLR": [{}, {"factor": 0.2, "total_iters": 4}],
    "LinearLR": [{}, {"start_factor": 0.1, "total_iters": 9}],
    "ExponentialLR": [{"gamma": 0.9}],
    "PolynomialLR": [{"total_iters": 8, "power": 2.0}],
    "CosineAnnealingLR": [{}, {"T_max": 6, "eta_min": 0.1}, {"every": "step"}],
    "CosineAnnealingWarmRestarts": [{"T_0": 3, "T_mult": 2, "eta_min": 0.05}],
    "CyclicLR": [
        {"base_lr": 0.1, "step_size_up": 7},
        {"base_lr": 0.1, "max_lr": 2.0, "mode": "exp_range", "gamma": 0.9},
    ],
    "OneCycleLR": [{}, {"max_lr": 1.5, "pct_start": 0.4, "anneal_strategy": "linear"}, {"every": "epoch"}],
    "ReduceLROnPlateau": [{"patience": 1, "min_lr": 0.02}, {"mode": "max", "figure": "accuracy", "patience": 0}],
    "LambdaLR": "takes a Python function",
    "MultiplicativeLR": "takes a Python function",
    "SequentialLR": "takes other schedulers",
    "ChainedScheduler": "takes other schedulers",
    "LRScheduler": "is not a scheduler",
}
HISTORY = [{"loss": 1 / (1 + min(epoch, 3)), "accuracy": [0.5, 0.6, 0.7][epoch % 3]} for epoch in range(EPOCHS)]


def test_every_scheduler_of_torch_is_tried_below():
    assert set(CASES) == set(schedulers.__all__)


def rates_of_torch(cls, settings):
    """The rate of each step where torch's own scheduler runs beside."""
    settings, figure = dict(settings), settings.get("figure", "loss")
    every = settings.pop("every", "step" if cls.__name__ in ("CyclicLR", "OneCycleLR") else "epoch")
    settings.pop("figure", None)
    moves = EPOCHS if every == "epoch" else EPOCHS * STEPS
    settings = {key: value * RATE if key in SHARES else value for key, value in settings.items()}
    if cls.__name__ == "OneCycleLR":
        settings = {"max_lr": RATE, "total_steps": moves} | settings
    if cls.__name__ == "CosineAnnealingLR":
        settings = {"T_max": moves} | settings
    if cls.__name__ == "CyclicLR":
        settings = {"max_lr": RATE} | settings
    if cls.__name__ in ("CyclicLR", "OneCycleLR"):
        settings["cycle_momentum"] = False
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    scheduler, rates = cls(optimizer, **settings), []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if every == "step" and len(rates) < moves:
                scheduler.step()
        if cls.__name__ == "ReduceLROnPlateau":
            scheduler.step(HISTORY[epoch][figure])
        elif every == "epoch" and epoch < EPOCHS - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    "name, settings",
    [(name, case) for name, cases in CASES.items() if isinstance(cases, list) for case in cases],
    ids=str,
)
def test_a_scheduler_of_torch_gives_the_rates_that_it_gives_beside_an_optimizer(name, settings):
    theirs = rates_of_torch(getattr(schedulers, name), settings)
    assert len(set(theirs)) > 1
    written = {key: str(value) for key, value in settings.items()}
    history = []
    schedule = made("schedule", f"torch.optim.lr_scheduler.{name}", **written).prepare(EPOCHS, STEPS, history)
    ours = []
    for step in range(EPOCHS * STEPS):
        if step and step % STEPS == 0:
            history.append(HISTORY[step // STEPS - 1])
        ours.append(RATE * schedule(step / (EPOCHS * STEPS)))
    assert ours == pytest.approx(theirs, rel=1e-9)
    resumed = made("schedule", f"torch.optim.lr_scheduler.{name}", **written).prepare(EPOCHS, STEPS, history)
    assert RATE * resumed(40 / 60) == ours[40], "a run that goes on finds the same rate"
    assert RATE * resumed(39 / 60) == ours[39]


def test_a_run_may_end_within_an_epoch():
    schedule = made("schedule", "torch.optim.lr_scheduler.OneCycleLR", pct_start=0.5).prepare(2.5, 3, [])
    rates = [schedule(step / 8) for step in range(8)]
    assert rates.index(max(rates)) == 3 and rates[-1] < 1e-4
    schedule = made("schedule", "torch.optim.lr_scheduler.CosineAnnealingLR").prepare(2.5, 3, [])
    rates = [schedule(step / 8) for step in range(8)]
    assert rates == pytest.approx([1, 1, 1, 0.75, 0.75, 0.75, 0.25, 0.25])


@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases, str)])
def test_schedulers_of_python_objects_are_refused(name):
    with pytest.raises(IngredientsError, match=f"<text>:2: x\n.*{CASES[name]}"):
        made("schedule", f"torch.optim.lr_scheduler.{name}")


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("StepLR", {}, "x.step_size\n.*missing.*an integer"),
        ("StepLR", {"step_size": "often"}, "x.step_size = often\n.*expected an integer"),
        ("MultiStepLR", {"milestones": 3}, "x.milestones = 3\n.*expected a list.* an integer"),
        ("StepLR", {"step_size": 3, "gama": 1}, "no such argument. Did you mean gamma?"),
        ("OneCycleLR", {"pct_start": 3}, "<text>:2: x\n.*pct_start"),
        ("OneCycleLR", {"total_steps": 3}, "no such argument"),
        ("OneCycleLR", {"max_momentum": 0.9}, "no such argument"),
        ("CosineAnnealingLR", {"T_max": 0}, "<text>:2: x\n.*T_max|zero"),
        ("StepLR", {"step_size": 3, "every": "day"}, 'x.every = day\n.*expected "epoch" or "step"'),
        ("ReduceLROnPlateau", {"every": "step"}, "no such argument"),
        ("ReduceLROnPlateau", {"factor": 2.0}, "<text>:2: x\n.*[Ff]actor should be < 1"),
    ],
)
def test_wrong_settings_of_a_scheduler_are_refused_before_training(name, settings, message):
    with pytest.raises(IngredientsError, match=message):
        made("schedule", f"torch.optim.lr_scheduler.{name}", **settings)


def test_plateau_names_the_figures_that_there_are():
    schedule = made("schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau", figure="acuracy")
    schedule = schedule.prepare(2, 1, [{"loss": 1.0, "accuracy": 0.5}])
    with pytest.raises(IngredientsError, match="there is no metric acuracy. Did you mean accuracy?"):
        schedule(0.5)


def test_a_schedule_that_was_not_prepared_says_so():
    with pytest.raises(RuntimeError, match="call schedule.prepare"):
        made("schedule", "torch.optim.lr_scheduler.StepLR", step_size=1)(0.5)
