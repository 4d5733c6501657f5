"""Networks, their weights and how they are trained."""

import copy
import hashlib
import http.server
import sys
import threading
from types import SimpleNamespace
from urllib.error import URLError

import pantry  # noqa: F401  (registers)
import pytest
import torch
import torchvision
from core import IngredientsError, parse_string, registry
from recipes import check, detection, segmentation
from recipes.experiment import build as build_experiment
from recipes.experiment import configure
from recipes.parts.backbone import find_backbone
from recipes.parts.finetune import FEW, freeze, freeze_norms, head, recompute, split_rates
from recipes.parts.weights import load_weights
from recipes.settings import call_functions, read_ingredients
from recipes.train import train, train_mode
from torch import nn
from torchvision.transforms.functional import to_pil_image


def families():
    """The smallest model of each kind that torchvision has."""
    names = torchvision.models.list_models(module=torchvision.models)
    names.sort(key=lambda name: -torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"])
    return {torchvision.models.get_model_builder(name).__module__: name for name in names}.values()


def build(name, in_channels=3, output_classes=5, seed=0, **options):
    torch.manual_seed(seed)
    return find_backbone(name, options)(in_channels, output_classes)


@pytest.mark.parametrize("name, in_channels, parameters", [("small_cnn", 1, 24_058), ("resnet_small", 3, 6_573_130)])
def test_backbones_have_the_size_that_they_tell(name, in_channels, parameters):
    model = build(name, in_channels, output_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    told = f"{round(parameters, -3 if parameters < 1e6 else -5):,}"
    assert f"About {told} parameters" in registry.backbone.get(name).__doc__
    for side in (8, 28, 33):
        images = torch.rand(2, in_channels, side, side).to(memory_format=torch.channels_last)
        assert model.to(memory_format=torch.channels_last)(images).shape == (2, 10)


@pytest.mark.parametrize("side, grid", [(4, 1), (6, 3), (7, 3)])
def test_pooling_to_a_grid_is_that_of_torch(side, grid):
    ours, torchs = build("small_cnn", 1, grid=grid)[-3], nn.AdaptiveMaxPool2d(grid)
    images = [torch.rand(2, 3, side, side).relu().requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0].data)
    for pool, image in zip((ours, torchs), images, strict=True):
        pool(image).square().sum().backward()
    assert torch.equal(ours(images[0]), torchs(images[1])) and torch.equal(images[0].grad, images[1].grad)


def test_resnet_small_learns():
    model, images = (
        build("resnet_small", 1, width=8),
        torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    targets = torch.arange(20) % 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_grey_images_reach_a_model_of_torchvision_as_three_equal_channels():
    model = build("resnet18", 1, 3).eval()
    images = torch.rand(2, 1, 32, 32)
    assert torch.allclose(model(images), model[1](images.repeat(1, 3, 1, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels, got 2"):
        build("resnet18", 2)


# options


def test_options_reach_the_builder():
    assert build("small_cnn", widths=[8, 24])[-1].in_features == 24
    assert build("vgg11", dropout=0.25).classifier[2].p == 0.25
    narrow, plain = (build("mobilenet_v3_small", width_mult=width) for width in (0.5, 1.0))
    assert 2 * head(narrow).in_features == head(plain).in_features


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("small_cnn", {"width": [3]}, "small_cnn.width: no such option. Did you mean widths?"),
        ("small_cnn", {"widths": 3}, "widths: expected a list.*got an integer"),
        ("small_cnn", {"in_channels": 3}, "small_cnn.in_channels: no such option"),
        ("vgg11", {"dropout": "0.3"}, "vgg11.dropout: `'0.3'` is text; write 0.3"),
        (
            "mobilenet_v3_small",
            {"dropuot": 0.3},
            "mobilenet_v3_small.dropuot: no such option. Did you mean dropout?",
        ),
        (
            "resnet18",
            {"weights": "DEFAULT", "group": 2},
            "(?s)resnet18.weights: no .*group: .*Did you mean groups?",
        ),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(IngredientsError, match=message):
        find_backbone(name, options)
    with pytest.raises(IngredientsError, match="Did you mean small_cnn"):
        find_backbone("smallcnn")


def test_options_that_the_network_refuses():
    with pytest.raises(ValueError, match="refuses its options: .*'layers'"):
        build("resnet18", layers=[1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"widths = \[\]: must be the channels"):
        build("small_cnn", widths=[])
    with pytest.raises(IngredientsError, match=r"resnet_small.width: must be in \[1, inf\)"):
        find_backbone("resnet_small", {"width": 0})


# head


@pytest.mark.parametrize("name", families())
def test_the_head_gives_the_logits(name):
    try:
        with torch.device("meta"):
            model = build(name, in_channels=1, output_classes=7)
    except NotImplementedError:  # it reads a number out of a tensor while it is built
        model = build(name, in_channels=1, output_classes=7)
    last = head(model)
    assert 7 in (getattr(last, "out_features", 0), getattr(last, "out_channels", 0))


@pytest.mark.parametrize("name", ["small_cnn", "resnet_small"])
def test_the_head_of_our_own(name):
    assert head(build(name)).out_features == 5
    with pytest.raises(IngredientsError, match="no parameters"):
        head(nn.ReLU())


# weights


def same(model, other, but=()):
    pairs = zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(one, another) == (key not in but) for (key, one), another in pairs)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_of_a_file(tmp_path, suffix):
    source, path = build("small_cnn", seed=1), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    model = build("small_cnn")
    assert load_weights(model, path, "small_cnn").endswith("nothing newly initialized") and same(model, source)


@pytest.mark.parametrize("wrap", ["model", "state_dict", "module.", "_orig_mod.", "_orig_mod.module."])
def test_weights_beside_other_things_or_of_a_wrapped_model(tmp_path, wrap):
    source, model = build("small_cnn", seed=1), build("small_cnn")
    state = source.state_dict()
    prefixed = {wrap + key: value for key, value in state.items()}
    torch.save(prefixed if wrap.endswith(".") else {wrap: state, "epoch": 3}, tmp_path / "a.pt")
    assert load_weights(model, tmp_path / "a.pt", "small_cnn").startswith("loaded ") and same(model, source)


@pytest.mark.parametrize("from_channels, to_channels", [(1, 3), (3, 1), (1, 1)])
def test_weights_of_grey_and_of_colour_models_are_the_same(tmp_path, from_channels, to_channels):
    source, model = build("squeezenet1_1", from_channels, seed=1), build("squeezenet1_1", to_channels)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    assert load_weights(model, tmp_path / "a.pt", "squeezenet1_1").endswith("nothing newly initialized")
    assert all(map(torch.equal, model.parameters(), source.parameters()))


@pytest.mark.parametrize("name, last", [("small_cnn", "14"), ("mnasnet0_5", "classifier")])
def test_a_head_of_another_size_stays_new_and_is_reported(tmp_path, name, last):
    source, model = build(name, output_classes=9, seed=1), build(name)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    told = load_weights(model, tmp_path / "a.pt", name)
    total, new = len(source.state_dict()), [key for key in source.state_dict() if key.startswith(last)]
    assert told == f"loaded {total - 2} of {total} entries of {tmp_path}/a.pt; newly initialized: {last}"
    body = [key for key in source.state_dict() if key not in new]
    assert all(torch.equal(model.state_dict()[key], source.state_dict()[key]) for key in body)
    assert all(torch.equal(model.state_dict()[key], build(name).state_dict()[key]) for key in new) == (last == "14")
    weight = model.state_dict()[new[0]]
    assert weight.square().mean() * weight[0].numel() < 1  # mnasnet's own would begin with a loss of 5 and more


def test_a_head_of_other_classes_is_reported(tmp_path):
    model, text = build("small_cnn", output_classes=2, seed=1), "[training.preprocess]\nsize = [8, 8]\n"
    meta = {"classes": ["dog", "cat"], "ingredients": text}
    torch.save({"model": model.state_dict(), "meta": meta}, tmp_path / "a.pt")

    def notes(*classes):
        model.class_names = [*classes]
        return load_weights(model, tmp_path / "a.pt", "small_cnn", ingredients=parse_string(text)).splitlines()[1:]

    assert notes("dog", "cat") == notes("bird", "cat", "dog") == []
    assert notes("cat", "dog") == ["note: the weights have other classes, or in another order: dog, cat"]


def test_what_the_file_does_not_hold_is_told(tmp_path):
    state = build("small_cnn", seed=1).state_dict()
    missing = [key for key in state if key.startswith("6.")]
    torch.save(
        {key: value for key, value in state.items() if key not in missing and "tracked" not in key}, tmp_path / "a.pt"
    )
    told = load_weights(build("small_cnn"), tmp_path / "a.pt", "small_cnn")
    assert missing and told.endswith("newly initialized: 6")


def test_weights_of_another_network_are_named_all_at_once(tmp_path):
    torch.save(build("small_cnn", widths=[32, 64, 104]).state_dict(), tmp_path / "a.pt")
    model = build("small_cnn")
    with pytest.raises(
        IngredientsError, match="(?s)a.pt: weights of another network:.*0.weight is .32, 3, 3, 3., but"
    ) as told:
        load_weights(model, tmp_path / "a.pt", "small_cnn")
    assert "8.weight is [104, 64, 3, 3], but [64, 32, 3, 3] in small_cnn" in str(told.value)
    assert same(model, build("small_cnn"))  # nothing was changed


def test_files_that_cannot_be_used_are_refused(tmp_path):
    def refusal(name, content=None):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(IngredientsError) as told:
            load_weights(build("small_cnn"), path, "small_cnn")
        return str(told.value)

    assert "no entry fits small_cnn: expected 0.weight, 2.weight" in refusal("a.pt", {"a.b": torch.zeros(1)})
    assert "no such file" in refusal("b.pt")
    assert "ends in .safetensors, .pt or .pth" in refusal("c.bin", b"x")
    assert "cannot be read as weights" in refusal("d.pt", b"no zip, no pickle")
    assert "cannot be read as weights" in refusal("e.pt", b"")
    assert "expected a state dict (names and tensors), got list" in refusal("f.pt", [1, 2])
    assert "cannot be read as weights" in refusal("g.pt", {"a": nn.Linear(1, 1)})  # code, which weights_only refuses


def test_safetensors_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(IngredientsError, match="pip install safetensors"):
        load_weights(build("small_cnn"), tmp_path / "a.safetensors", "small_cnn")


def test_damaged_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"not one of these")
    with pytest.raises(IngredientsError, match="a.safetensors: cannot be read as weights"):
        load_weights(build("small_cnn"), tmp_path / "a.safetensors", "small_cnn")


def test_pretrained_weights_that_cannot_be_had(monkeypatch, tmp_path):
    def no_network(*_args, **_settings):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(IngredientsError) as told:
        load_weights(build("squeezenet1_1"), "pretrained", "squeezenet1_1")
    wanted = ("https://download.pytorch.org/models/squeezenet1_1", "no route to host", f"{tmp_path}/hub/checkpoints")
    assert all(part in str(told.value) for part in (*wanted, "weights = <path>"))
    with pytest.raises(IngredientsError, match="no pretrained weights of small_cnn"):
        load_weights(build("small_cnn"), "pretrained", "small_cnn")


def test_pretrained_weights_leave_the_head_new(monkeypatch):
    """The download is stood in for by a state dict of the right shape."""
    source = build("squeezenet1_1", output_classes=1000, seed=1)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: source.state_dict())
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: source.state_dict())
    model = build("squeezenet1_1", in_channels=1)
    told = load_weights(model, "pretrained", "squeezenet1_1")
    assert told == "loaded 50 of 52 entries of pretrained; newly initialized: classifier"
    assert torch.equal(model[1].features[0].weight, source.features[0].weight)


# where weights come from


@pytest.fixture
def server(tmp_path):
    """(URL of a file of weights, its sha256, how often it was asked for, its network)."""
    source, asked = build("small_cnn", seed=1), []
    (tmp_path / "www").mkdir()
    torch.save(source.state_dict(), tmp_path / "www/a.pth")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        digest = hashlib.sha256((tmp_path / "www/a.pth").read_bytes()).hexdigest()
        yield f"http://127.0.0.1:{served.server_port}/a.pth", digest, asked, source
        served.shutdown()
        thread.join()


def test_weights_of_a_url_are_verified_and_kept(server, tmp_path, monkeypatch):
    url, digest, asked, source = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    for short in ("", "#sha256=12", "#sha256=xy"):
        with pytest.raises(IngredientsError, match="expected https://.*#sha256="):
            load_weights(build("small_cnn"), url + short, "small_cnn")
    with pytest.raises(IngredientsError, match=f"(?s){url} .*invalid hash value.*{folder}"):
        load_weights(build("small_cnn"), f"{url}#sha256={64 * '0'}", "small_cnn")
    with pytest.raises(IngredientsError, match="b.pth .*404"):
        load_weights(build("small_cnn"), f"{url.replace('a.pth', 'b.pth')}#sha256={digest}", "small_cnn")
    assert list(folder.iterdir()) == []  # no half files
    for content, times in ((None, 4), (None, 4), (b"another", 5)):
        if content:
            (folder / "a.pth").write_bytes(content)
        model = build("small_cnn")
        load_weights(model, f"{url}#sha256={digest.upper()}", "small_cnn")
        assert same(model, source) and [file.name for file in folder.iterdir()] == ["a.pth"] and len(asked) == times


def test_names_of_the_hub(tmp_path, monkeypatch):
    """A cached file is read without asking the network; without one the message says where to get it."""
    hub = pytest.importorskip("huggingface_hub")
    safetensors = pytest.importorskip("safetensors.torch")
    source, told = build("small_cnn", seed=1), {}
    safetensors.save_file(source.state_dict(), tmp_path / "model.safetensors")

    def no_network(*args, **settings):
        raise hub.errors.LocalEntryNotFoundError("cannot find the requested files. Please check")

    monkeypatch.setattr(hub, "hf_hub_download", no_network)
    monkeypatch.setattr(
        hub, "try_to_load_from_cache", lambda *args: told.update(asked=args) or str(tmp_path / "model.safetensors")
    )
    model = build("small_cnn")
    load_weights(model, "hf:org/name", "small_cnn")
    assert same(model, source) and told["asked"] == ("org/name", "model.safetensors")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args: None)
    with pytest.raises(
        IngredientsError, match=r"https://huggingface.co/org/name/resolve/main/a/b.pth .*weights = <path>"
    ):
        load_weights(model, "hf:org/name/a/b.pth", "small_cnn")
    with pytest.raises(IngredientsError, match="expected hf:organization/name"):
        load_weights(model, "hf:name", "small_cnn")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(IngredientsError, match="pip install huggingface_hub"):
        load_weights(model, "hf:org/name", "small_cnn")


def test_backbones_of_timm(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    model = build("timm.mobilenetv2_050", 1, 7)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7) and head(model).out_features == 7
    with pytest.raises(IngredientsError, match="no timm.mobilnetv2_050.*Did you mean timm.mobilenetv2_050"):
        find_backbone("timm.mobilnetv2_050")
    with pytest.raises(ValueError, match="refuses its options: .*bogus"):
        build("timm.resnet18", bogus=1)
    with pytest.raises(IngredientsError, match="there is no backbone"):  # a classifier, in another task
        detection.find_detector("timm.resnet18")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_route)
    with pytest.raises(
        IngredientsError, match="huggingface.co/timm/mobilenetv2_050.lamb_in1k/.*no route.*weights = <path>"
    ):
        load_weights(model, "pretrained", "timm.mobilenetv2_050")
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: None)  # a network without weights
    with pytest.raises(IngredientsError, match="no pretrained weights of timm.mobilenetv2_050"):
        load_weights(model, "pretrained", "timm.mobilenetv2_050")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(IngredientsError, match="pip install timm"):
        find_backbone("timm.resnet18")


def no_route(*_args, **_settings):
    raise URLError("no route to host")


def test_weights_of_the_same_network_under_other_names_are_taken_by_their_order(tmp_path):
    pytest.importorskip("timm")
    source = build("mobilenet_v2", seed=1, width_mult=0.5)
    torch.save(source.features.state_dict(), tmp_path / "a.pth")
    model = build("timm.mobilenetv2_050")
    told = load_weights(model, tmp_path / "a.pth", "timm.mobilenetv2_050")
    assert "by their order" in told and told.endswith("newly initialized: classifier")
    assert torch.equal(model.conv_head.weight, source.features[18][0].weight)
    with pytest.raises(IngredientsError, match="no entry fits"):
        load_weights(build("timm.mobilenetv2_075"), tmp_path / "a.pth", "timm.mobilenetv2_075")


# how it is trained


def step(model, images, targets):
    torch.manual_seed(7)
    loss = nn.functional.cross_entropy(model(images), targets)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


IMAGES, TARGETS = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


def test_a_frozen_body_stays():
    model, before = build("small_cnn"), build("small_cnn")
    last = head(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freeze(model.train(), last)
    step(model, IMAGES, TARGETS)
    optimizer.step()
    assert same(model, before, but=("14.weight", "14.bias"))
    assert last.training and not any(part.training for part in model if isinstance(part, nn.BatchNorm2d))
    freeze(model.train(), last, frozen=False)
    optimizer.zero_grad()
    step(model, IMAGES, TARGETS)
    optimizer.step()
    assert all(part.training for part in model) and all(p.requires_grad for p in model.parameters())
    assert same(model, before, but=set(model.state_dict()))


def test_a_body_that_is_evaluated_stays_so():
    model = build("small_cnn").eval()
    freeze(model, head(model), frozen=False)
    assert not any(module.training for module in model.modules())


def test_rates_are_split():
    model = build("small_cnn")
    of_head = list(head(model).parameters())
    kernels, others = ([p for p in model.parameters() if (p.ndim > 1) == big] for big in (True, False))
    groups = [{"params": kernels, "weight_decay": 0.1}, {"params": others, "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    split_rates(optimizer, iter(of_head), 0.1)
    found = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [(3, 0.1, 0.1), (1, 1.0, 0.1), (6, pytest.approx(0.02), 0), (1, 0.2, 0)]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    before = [p.detach().clone() for p in model.parameters()]
    _, gradients = step(model, IMAGES, TARGETS)
    optimizer.step()
    moved = [
        float((old - new).detach().abs().sum() / g.abs().sum())
        for old, new, g in zip(before, model.parameters(), gradients, strict=True)
    ]
    assert moved[0] < 0.2 and moved[-1] == pytest.approx(0.2, rel=0.01)
    with pytest.raises(ValueError, match="factor = -1: must be at least 0"):
        split_rates(optimizer, of_head, -1)


def test_frozen_norms_stay():
    model, before = build("small_cnn"), build("small_cnn")
    assert freeze_norms(model, "auto", FEW) == []
    frozen = freeze_norms(model, "auto", FEW - 1)
    assert frozen == [part for part in model if isinstance(part, nn.BatchNorm2d)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for epoch in range(2):
        facts = {"frozen_epochs": 1}
        train_mode(
            SimpleNamespace(
                model=model,
                head=head(model),
                scheme=SimpleNamespace(**facts),
                optimizers={"": optimizer},
                frozen_norms=frozen,
            ),
            epoch,
        )
        assert model.training and not any(norm.training for norm in frozen)
        step(model, IMAGES, TARGETS)
        optimizer.step()
    norms = [key for key, _ in before.named_parameters() if key.startswith(("2.", "6.", "10."))]
    statistics = [key for key, _ in before.named_buffers()]
    assert same(model, before, but=set(before.state_dict()) - set(norms) - set(statistics))
    with pytest.raises(IngredientsError, match="no batch norms"):
        freeze_norms(build("squeezenet1_1"), True, 10)


class Noisy(nn.Sequential):
    """Norms and dropout: what computing twice could spoil."""

    def __init__(self):
        block = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(nn.Conv2d(3, 3, 1), nn.Sequential(*block), nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize("names", [["1"], ["Conv2d", "BatchNorm2d"], ["1", "Dropout", "3"]])
def test_recomputing_changes_no_bit(names):
    torch.manual_seed(0)
    model = Noisy()
    model(IMAGES[:1])
    plain, saving = model.train(), copy.deepcopy(model)
    recompute(saving, names)
    assert list(saving.state_dict()) == list(plain.state_dict())
    for _ in range(2):
        (loss, gradients), (other, others) = step(plain, IMAGES, TARGETS), step(saving, IMAGES, TARGETS)
        assert torch.equal(loss, other) and all(map(torch.equal, gradients, others))
        assert same(plain, saving)  # running statistics too
    assert torch.equal(plain.eval()(IMAGES), saving.eval()(IMAGES))


def test_recomputing_keeps_less(monkeypatch):
    def kept(names):
        model, sizes = build("resnet_small", width=8), []
        recompute(model, names)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(IMAGES)
        return sum(sizes)

    assert kept(["Residual"]) < kept([])


def test_recomputing_a_grey_torchvision_model_and_a_copy_of_it():
    plain = build("mobilenet_v3_small", in_channels=1)  # which has norms and dropout
    saving = copy.deepcopy(plain)
    recompute(saving, ["features.2", "InvertedResidual", "classifier"])
    copied = copy.deepcopy(saving)
    with torch.no_grad():
        for parameter in saving.parameters():
            parameter.zero_()  # the copy has parameters of its own
    (loss, gradients), (other, others) = (step(model, IMAGES[:, :1], TARGETS) for model in (plain, copied))
    assert torch.equal(loss, other) and all(map(torch.equal, gradients, others)) and same(plain, copied)


def test_blocks_that_the_model_does_not_have():
    model = build("resnet18")
    with pytest.raises(
        IngredientsError, match='(?s)no block "layer9". Did you mean layer.*no block "BasicBlok". Did you mean Ba'
    ):
        recompute(model, ["layer9", "layer1", "BasicBlok"])


# detectors and their bodies

BODIES = ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]


@pytest.mark.parametrize("name, body", [("faster_rcnn", BODIES[0]), *(("mask_rcnn", body) for body in BODIES)])
def test_detectors_train_with_bodies_of_mobilenet(name, body):
    torch.manual_seed(0)
    model = detection.find_detector(name, {"body": body, "width": 32})(3, 2)
    model.transform.min_size, model.transform.max_size = (96,), 96
    target = {"boxes": torch.tensor([[8.0, 8, 60, 70]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 96, 96, dtype=torch.uint8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = detection.loss(model.train(), torch.rand(2, 3, 96, 96), [target, target])
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and next(model.backbone.body.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize("body, first", [("resnet18", "conv1.weight"), ("mobilenet_v2", "features.0.0.weight")])
def test_weights_of_a_classifier_start_the_body_of_a_detector(tmp_path, body, first):
    classifier = build(body, seed=1)
    torch.save({"model": classifier.state_dict()}, tmp_path / "a.pth")
    model = detection.find_detector("faster_rcnn", {"body": body, "width": 32})(3, 2)
    told = load_weights(model, tmp_path / "a.pth", "faster_rcnn", {"body": body})
    count = len(classifier.state_dict())
    assert told == (
        f"loaded {count - 2} of {count} entries of {tmp_path}/a.pth; newly initialized: backbone.fpn, rpn, roi_heads"
    )
    place = "backbone.body." + first.removeprefix("features.")
    assert torch.equal(model.state_dict()[place], classifier.state_dict()[first])
    assert all(id(one) not in set(map(id, head(model).parameters())) for one in model.backbone.body.parameters())
    if body == "resnet18":
        model = detection.find_detector("retinanet", {"body": "resnet50"})(3, 2)
        with pytest.raises(IngredientsError, match="(?s)another network:.*backbone.body.layer1.0.conv1.weight is"):
            load_weights(model, tmp_path / "a.pth", "retinanet", {"body": "resnet50"})


def test_weights_of_a_classifier_start_the_body_of_a_segmenter(tmp_path):
    classifier = build("mobilenet_v3_large", seed=1)
    torch.save(classifier.state_dict(), tmp_path / "a.pth")
    model = segmentation.find_segmenter("lraspp_mobilenet_v3_large")(1, 2)
    told = load_weights(model, tmp_path / "a.pth", "lraspp_mobilenet_v3_large")
    assert told.startswith("loaded 308 of 312 entries") and told.endswith("newly initialized: classifier")
    assert torch.equal(model[1].backbone["0"][0].weight, classifier.features[0][0].weight)


def test_pretrained_starts_the_body_of_a_detector(tmp_path, monkeypatch):
    """By default retinanet has the body resnet18; the file lies where torch.hub would have put it."""
    source = build("resnet18", output_classes=1000, seed=1)
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(source.state_dict(), tmp_path / "hub/checkpoints" / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = detection.find_detector("retinanet", {})(3, 2)
    told = load_weights(model, "pretrained", "retinanet", {})
    assert told == "loaded 120 of 122 entries of pretrained; newly initialized: backbone.fpn, head"
    assert torch.equal(model.backbone.body.conv1.weight, source.conv1.weight)
    with pytest.raises(IngredientsError, match="no pretrained weights of small"):
        load_weights(detection.find_detector("fcos")(3, 2), "pretrained", "fcos")


@pytest.mark.parametrize("body", ["squeezenet1_1", "timm.mobilenetv2_050", "efficientnet_b0"])
def test_bodies_of_detectors_and_segmenters(body):
    if body.startswith("timm."):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    target = {"boxes": torch.tensor([[8.0, 8, 60, 70]]), "labels": torch.tensor([1])}
    for name in ("fcos", "retinanet"):
        model = detection.find_detector(name, {"body": body, "width": 32})(3, 2)
        model.transform.min_size, model.transform.max_size = (64,), 64
        detection.loss(model.train(), torch.rand(2, 3, 64, 64), [target] * 2).backward()
        assert next(model.backbone.body.parameters()).grad is not None, name
        assert model.transform.image_mean[0] == 0.485
    model = segmentation.find_segmenter("fpn", {"body": body, "width": 32})(1, 4)
    assert model(torch.rand(2, 1, 50, 66)).shape == (2, 4, 50, 66)
    in_body = set(map(id, model.backbone.body.parameters()))
    assert in_body and not in_body & set(map(id, head(model).parameters()))


def test_detectors_normalize_as_their_body_expects():
    pytest.importorskip("timm")
    model = detection.find_detector("fcos", {"body": "timm.tf_efficientnet_lite0", "width": 32})(3, 2)
    assert (model.transform.image_mean, model.transform.image_std) == ([0.5] * 3, [0.5] * 3)
    for body, message in (
        ("resnet8", "Did you mean resnet18"),
        ("timm.resnt18", "timm.resnet18|resnet18"),
        ("vit_b_16", "several"),
    ):
        with pytest.raises(ValueError, match=message):
            detection.find_detector("fcos", {"body": body})(3, 2)


# through the ingredients

INI = """[project]
name = own
[project.meta]
task = classification
[model.architecture]
backbone = small_cnn
[training.load_dataset]
@load_dataset = load_image_folder
source = images
[training.preprocess]
@preprocess = resize_and_scale
mean = [0.2, 0.3, 0.4]
std = [0.5, 0.5, 0.5]
[training.optimizer]
@optimizer = sgd
[training.scheme]
epochs = 1
batch_size = 4
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`read(setting=text, ...)` of INI, with six photos of two classes in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.ini").write_text(INI)
    for index in range(12):
        (tmp_path / f"images/{'ab'[index % 2]}").mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
        to_pil_image(pixels).save(tmp_path / f"images/{'ab'[index % 2]}/{index}.png")
    return lambda **changes: read_ingredients(
        "own.ini", [(key.replace("__", "."), text, True) for key, text in changes.items()]
    )


def test_normalization_travels_with_the_weights(own, capsys, tmp_path):
    """A run starts from the model.pth of another; one with another normalization is told so, with file and line."""
    ingredients = own()
    train(ingredients, call_functions(ingredients))
    start = {"model__architecture__weights": "models/model.pth"}
    for changes, told in (({}, False), ({"training__preprocess__mean": "[0.1, 0.3, 0.4]"}, True)):
        ingredients = own(**start, **changes)
        experiment = build_experiment(configure(ingredients, call_functions(ingredients)))
        _, weights, frozen = experiment.notes
        assert weights.startswith("loaded 20 of 20 entries of models/model.pth; nothing") and "frozen: 3" in frozen
        assert ("mean = [0.2, 0.3, 0.4], std = [0.5, 0.5, 0.5]" in weights) == told, weights
        assert len(experiment.frozen_norms) == 3  # a small set
        capsys.readouterr()
        assert (
            check.answer(
                "--check",
                SimpleNamespace(ingredients="own.ini"),
                [(key.replace("__", "."), text, True) for key, text in (start | changes).items()],
            )
            == 0
        )
        assert ("training.preprocess.mean" in capsys.readouterr().out) == told
    ingredients = own(model__architecture__backbone="resnet18", model__architecture__weights="pretrained")
    experiment = configure(ingredients, call_functions(ingredients), "meta")
    experiment.fetch = False
    experiment = build_experiment(experiment)
    weights = experiment.notes[1]
    assert "own.ini:12: training.preprocess.mean" in weights  # nothing is downloaded for that
    assert "mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]" in weights
