"""Segmentation: masks as they are read, moved, learnt and measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import pantry  # noqa: F401  (registers)
from core import IngredientsError, parse_string, registry, resolve
from core.declared import read_section
from pantry import losses
from pantry.boxes import GREY
from recipes import checkpoint, data, segmentation
from recipes.parts import finetune, weights
from recipes.settings import Architecture, read_ingredients
from recipes.train import train as recipe

HERE = Path(__file__).parent.parent
# of a project that segments these are its ingredients
INI = next(path for name in (".segmentation", "") if (path := HERE / f"ingredients{name}.ini").is_file())
IGNORED = 255


def made(shelf, name, /, **settings):
    return registry[shelf].get(name)(**settings)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------------------- masks


def write(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(path)


@pytest.fixture
def pairs(tmp_path):
    """Two images of 6 x 8 pixels with masks of classes 0, 1, 2, in which 255 counts nowhere, and one for validation."""
    ids = np.zeros((6, 8), dtype=np.uint8)
    ids[2:4, 3:6], ids[0, 0], ids[5] = 2, 1, 255
    for split, names in (("train2017", "ab"), ("val", "c")):
        for shift, name in enumerate(names):
            write(tmp_path / "images" / split / f"{name}.jpg", np.full((6, 8, 3), 100))
            write(tmp_path / "masks" / split / f"{name}.png", np.roll(ids, shift, 1))
    return tmp_path, torch.from_numpy(ids)


def load(folder, **settings):
    return made("load_dataset", "load_masks", images=folder / "images", masks=folder / "masks", **settings)()


def test_masks_of_numbers(pairs):
    folder, ids = pairs
    loaded = load(folder)
    assert loaded.classes is None and [Path(path).name for path in loaded.paths] == ["a.jpg", "b.jpg"]
    assert loaded.X.shape == (2, 3, 6, 8) and loaded.X.dtype == loaded.y.dtype == torch.uint8
    assert torch.equal(loaded.y, torch.stack([ids, ids.roll(1, 1)]))
    from_disk = load(folder, memory=0.0)
    assert from_disk.X is None and from_disk.y is None
    for one, other in zip((loaded[1]), from_disk[1], strict=True):
        assert torch.equal(one, other)
    assert len(load(folder, split="validation")) == 1
    assert load(folder, classes=["sky", "car", "tree", "dog"]).classes == ["sky", "car", "tree", "dog"]


def test_numbers_with_gaps_and_others_that_count_nowhere(pairs):
    folder, ids = pairs
    loaded = load(folder, classes={"2": "tree", "0": "sky"}, ignore=[1, 255])
    assert loaded.classes == ["tree", "sky"]
    expected = torch.full_like(ids, IGNORED)
    expected[ids == 2], expected[ids == 0] = 0, 1
    assert torch.equal(loaded.y[0], expected)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_masks_of_colours_and_of_palettes(tmp_path, mode):
    ids = np.array([[0, 1, 2], [2, 2, 1]])
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]])
    pixels = ids if mode == "P" else colours[ids]
    if mode == "RGBA":
        pixels = np.concatenate([pixels, np.full((2, 3, 1), 255)], 2)
    write(tmp_path / "masks" / "a.png", pixels, mode)
    write(tmp_path / "images" / "a.png", np.zeros((2, 3, 3)))
    if mode == "P":
        assert torch.equal(load(tmp_path).y[0], torch.from_numpy(ids).byte())
    loaded = load(tmp_path, palette=colours.tolist(), classes=["a", "b", "c"])
    assert loaded.classes == ["a", "b", "c"] and torch.equal(loaded.y[0], torch.from_numpy(ids).byte())
    partly = load(tmp_path, palette=colours[:2].tolist(), ignore=colours[2].tolist())
    assert torch.equal(partly.y[0], torch.where(torch.from_numpy(ids) == 2, IGNORED, torch.from_numpy(ids)).byte())


def test_what_is_wrong_with_masks_is_told_at_once(pairs):
    folder, ids = pairs
    write(folder / "masks" / "train2017" / "a.png", np.where(ids == 2, 7, ids))
    write(folder / "masks" / "train2017" / "b.png", np.zeros((5, 8)))
    write(folder / "images" / "train2017" / "d.png", np.zeros((6, 8, 3)))
    for when in ("training", "--check"):
        with pytest.raises(IngredientsError) as error:
            if when == "--check":
                loader = made(
                    "load_dataset", "load_masks", images=folder / "images", masks=folder / "masks", classes=["x", "y"]
                )
                loader.check()
            load(folder, classes=["x", "y"])
        told = str(error.value)
        assert "a.png: 6 pixels are 7, which is no class and not ignored" in told
        assert "b.png: has 5 x 8 pixels, but its image" in told
        assert "d.png: there is no mask of its name" in told
    (folder / "masks" / "train2017" / "b.png").unlink()
    assert len(load(folder, classes=list("abcdefgh"), unlabelled="skip")) == 1
    write(folder / "masks" / "train2017" / "e.png", ids)
    with pytest.raises(IngredientsError, match="e.png: there is no image of its name"):
        load(folder)
    write(folder / "masks" / "train2017" / "e.png", np.zeros((6, 8, 3)))
    write(folder / "images" / "train2017" / "e.png", np.zeros((6, 8, 3)))
    with pytest.raises(IngredientsError, match=r"e.png: .*mode RGB.* set palette"):
        load(folder, unlabelled="skip")
    with pytest.raises(IngredientsError, match=r"pixels are \[0, 0, 0\], which is no class"):
        load(folder, unlabelled="skip", palette=[[7, 7, 7]])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_size": [0, 8]}, "height, width"),
        ({"palette": [[0, 0]]}, "is no colour"),
        ({"palette": [[0, 0, 0], [0, 0, 0]]}, "stands for two classes"),
        ({"palette": [[0, 0, 0]], "classes": ["a", "b"]}, "1 colours, but 2 classes"),
        ({"classes": {"x": "a"}}, "number in the files"),
        ({"ignore": 256}, "256 is no number"),
        ({"classes": [str(index) for index in range(256)]}, "more than the 255"),
    ],
)
def test_settings_of_masks_are_checked(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        made("load_dataset", "load_masks", images=tmp_path, masks=tmp_path, **settings)


def test_images_and_masks_are_brought_to_a_size_alike(tmp_path):
    for name, size in (("wide", (30, 47)), ("tall", (61, 20)), ("small", (7, 5))):
        mask = np.zeros(size)
        mask[size[0] // 2 :] = 1
        write(tmp_path / "masks" / f"{name}.png", mask)
        write(tmp_path / "images" / f"{name}.png", np.repeat(mask[..., None] * 255, 3, 2))
    with pytest.raises(IngredientsError, match="of 3 sizes; set image_size"):
        load(tmp_path)
    loaded = load(tmp_path, image_size=[32, 32])
    for image, mask in zip(loaded.X, loaded.y, strict=True):
        outside = mask == IGNORED
        assert (image[:, outside] == GREY).all() and 0 < outside.sum() < 900
        assert ((image[0] > 127) == (mask == 1))[~outside].float().mean() > 0.94  # but for a blurred row
        assert set(mask.unique().tolist()) == {0, 1, IGNORED}


def test_polygons_become_masks_of_which_the_later_covers(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((20, 40, 3)))
    (tmp_path / "labels").mkdir()
    square, wide = "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75", "1 0.4 0.5 1 0.5 1 1 0.4 1"
    (tmp_path / "labels" / "a.txt").write_text(f"{square}\n{wide}\n")
    settings = {"images": tmp_path / "images", "labels": tmp_path / "labels", "classes": ["dog", "cat"]}
    loaded = made("load_dataset", "load_yolo_masks", **settings)()
    assert loaded.classes == ["background", "dog", "cat"] and loaded.y.shape == (1, 20, 40)
    assert [int(loaded.y[0, y, x]) for y, x in ((2, 2), (7, 15), (12, 18), (18, 35))] == [0, 1, 2, 2]
    boxed = made("load_dataset", "load_yolo_masks", **settings, image_size=[20, 20])()
    assert [int(boxed.y[0, y, x]) for y, x in ((1, 1), (3, 7), (9, 17), (10, 5))] == [0, 1, 2, IGNORED]
    objects = [
        {"id": number, "image_id": 1, "category_id": number, "bbox": box, "segmentation": [outline]}
        for number, box, outline in (
            (1, [10, 5, 10, 10], [10, 5, 20, 5, 20, 15, 10, 15]),
            (2, [16, 10, 24, 10], [16, 10, 40, 10, 40, 20, 16, 20]),
        )
    ]
    listed = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": objects}
    listed["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (tmp_path / "coco.json").write_text(json.dumps(listed))
    of_coco = made("load_dataset", "load_coco_masks", images=tmp_path / "images", annotations=tmp_path / "coco.json")
    assert torch.equal(of_coco().y, loaded.y) and of_coco().classes == loaded.classes
    (tmp_path / "labels" / "a.txt").write_text("5 0.1 0.1 0.2 0.1 0.2 0.2")
    with pytest.raises(IngredientsError, match="there is no class number 5"):
        made("load_dataset", "load_yolo_masks", **settings).check()


# ---------------------------------------------------------------------------------------------- masks move with images


def marked(count=64, side=16):
    """Images of which each pixel tells its class in its mask, 1 to 200: 0 is what comes in at the edge."""
    masks = torch.randint(1, 200, (count, side, side), generator=seeded(3), dtype=torch.uint8)
    return (masks / 255)[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last), masks


@pytest.mark.parametrize(
    "name, settings",
    [
        ("random_flip", {}),
        ("random_flip", {"vertical": True}),
        ("random_shift", {"pixels": 3}),
        ("random_crop", {"size": [10, 12], "pad": 2}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_move_with_their_images(name, settings, dtype):
    images, before = marked()
    moved, after = made("augment", name, **settings)(images, before.to(dtype), seeded())
    assert after.dtype == dtype and after.shape == (64, *moved.shape[2:])
    assert not torch.equal(after, before.to(dtype))
    expected = (moved[:, 0] * 255).round().to(dtype)
    expected[expected == 0] = IGNORED
    assert torch.equal(after, expected)
    assert (after == IGNORED).any() == (name != "random_flip")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("RandomAffine", {"degrees": 0, "translate": [0.3, 0.3]}),
        ("RandomAffine", {"degrees": 0, "translate": [0.3, 0.3], "fill": 0.0}),
        ("RandomHorizontalFlip", {"p": 1.0}),
        ("RandomCrop", {"size": [12, 12], "padding": 4}),
    ],
)
def test_masks_move_with_torchvisions_transforms(name, settings):
    images, before = marked(count=8)
    augment = made("augment", f"torchvision.transforms.v2.{name}", **settings)
    samples = data.Samples(images, before, None, None, {})
    augmented = data.augmented(samples, augment.per_sample, seed=0).dataset
    changed = 0
    for index in range(8):
        moved, after = augmented[0, index]
        expected = (moved[0] * 255).round().byte()
        expected[expected == 0] = IGNORED
        assert torch.equal(torch.as_tensor(after), torch.as_tensor(expected)) and type(after) is torch.Tensor
        changed += not torch.equal(after, before[index])
    assert changed == 8


# ------------------------------------------------------------------------------------------------------------- losses

LOGITS = torch.randn(2, 4, 5, 6, generator=seeded())
MASKS = torch.randint(0, 4, (2, 5, 6), generator=seeded(1))
HOLED = MASKS.masked_fill(torch.rand(MASKS.shape, generator=seeded(2)) < 0.3, losses.IGNORE_INDEX)
ROWS, KNOWN = LOGITS.movedim(1, -1)[HOLED >= 0], HOLED[HOLED >= 0]  # the pixels that count, as samples


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice"])
def test_ignored_pixels_count_nowhere(name):
    """Neither in the value nor in the gradient; pixels are samples of a classification otherwise."""
    loss, logits = made("loss", name), LOGITS.clone().requires_grad_()
    value = loss(logits, HOLED)
    assert torch.allclose(value, loss(ROWS, KNOWN))
    value.backward()
    ignored = (HOLED < 0)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).all()
    nothing = loss(LOGITS.clone().requires_grad_(), torch.full_like(MASKS, losses.IGNORE_INDEX))
    nothing.backward()
    assert nothing.isfinite()


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0], "balanced"])
@pytest.mark.parametrize("name, settings", [("cross_entropy", {"label_smoothing": 0.2}), ("focal", {"gamma": 1.5})])
def test_weights_and_smoothing_of_pixels_are_those_of_samples(name, settings, weights):
    loss = made("loss", name, class_weights=weights, **settings)
    in_masks = HOLED.masked_fill(HOLED < 0, IGNORED).byte()
    of_pixels = loss.prepare(in_masks, 4, "cpu")
    assert torch.allclose(of_pixels(LOGITS, HOLED), loss.prepare(KNOWN, 4, "cpu")(ROWS, KNOWN))


def test_torchs_own_losses_take_masks():
    loss = resolve(parse_string("[x]\n@loss = torch.nn.CrossEntropyLoss"))["x"]
    assert torch.allclose(loss(LOGITS, HOLED), made("loss", "cross_entropy")(LOGITS, HOLED))


def test_dice_is_its_formula():
    shares, truth = LOGITS.softmax(1), F.one_hot(MASKS, 4).movedim(-1, 1)
    for smooth in (1.0, 10.0):
        by_class = []
        for label in range(4):
            p, g = shares[:, label].flatten(), truth[:, label].flatten().float()
            by_class.append((2 * p @ g + smooth) / (p @ p + g @ g + smooth))
        assert torch.allclose(made("loss", "dice", smooth=smooth)(LOGITS, MASKS), 1 - torch.stack(by_class).mean())
    assert made("loss", "dice")(50 * truth.float(), MASKS) < 1e-6
    with pytest.raises(ValueError, match="smooth = 0: must be above 0"):
        made("loss", "dice", smooth=0)


# ------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("widths, stride", [([4], 1), ([4, 6, 8], 1), ([4, 6, 8], 2)])
@pytest.mark.parametrize("size", [(32, 48), (37, 21)])
def test_unet_gives_each_pixel_its_logits(widths, stride, size):
    model = segmentation.find_segmenter("unet", {"widths": widths, "stride": stride})(in_channels=1, output_classes=3)
    assert model.eval()(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_unet_is_that_of_the_paper():
    with torch.device("meta"):
        model = segmentation.find_segmenter("unet")(in_channels=1, output_classes=2)
    convolutions = [tuple(one.weight.shape[:2]) for one in model.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(convolutions) == 19 and max(convolutions) == (1024, 1024)  # and 4 transposed ones: 23 in the paper
    assert 31_000_000 < sum(one.numel() for one in model.parameters()) < 31_100_000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvisions_models(name, channels):
    with torch.device("meta"):
        build = segmentation.find_segmenter(name)
        model = build(in_channels=channels, output_classes=5).eval()
        assert model(torch.rand(2, channels, 64, 48)).shape == (2, 5, 64, 48)
        head = finetune.head(model)
    body = next(one for one in model.modules() if hasattr(one, "backbone")).backbone
    parts = [set(map(id, part.parameters())) for part in (model, body, head)]
    assert parts[0] == parts[1] | parts[2] and not parts[1] & parts[2] and parts[2]


def test_names_and_options_of_segmentation_models():
    for name, options, message in (
        ("resnet18", None, "there is no backbone"),
        ("fcn_resnet5", None, "Did you mean fcn_resnet50"),
        ("fcn_resnet50", {"width": 3}, "takes no options"),
        ("unet", {"width": 3}, "Did you mean widths"),
    ):
        with pytest.raises(IngredientsError, match=message):
            segmentation.find_segmenter(name, options)


def test_weights_with_a_head_of_another_size(tmp_path):
    build = segmentation.find_segmenter("lraspp_mobilenet_v3_large")
    source, model = build(in_channels=3, output_classes=21), build(in_channels=1, output_classes=4)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    told = weights.load_weights(model, tmp_path / "a.pt", "lraspp_mobilenet_v3_large")
    assert told.endswith("newly initialized: classifier.low_classifier, classifier.high_classifier")
    own, theirs = model[1].state_dict(), source.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if own[key].shape == theirs[key].shape)


def test_a_frozen_body_trains_its_head_alone():
    build = segmentation.find_segmenter("lraspp_mobilenet_v3_large")
    model = build(in_channels=3, output_classes=4).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    finetune.freeze(model, finetune.head(model))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"classifier"}


# ------------------------------------------------------------------------------------------------------------- figures


class Told(torch.nn.Module):
    """A model that says what its images hold: the class of a pixel is 100 times its value."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        return 8 * F.one_hot((images[:, 0] * 100).round().long(), self.classes).movedim(-1, 1).float()


def batches(said, truth):
    return [(said[:, None] / 100, truth)]


def test_figures_are_their_formulas():
    said, truth = MASKS, MASKS.roll(1, 2).masked_fill(HOLED < 0, IGNORED).byte()
    said, truth = said.clamp(max=2), torch.where((truth == 3), 2, truth)  # class 3 is nowhere
    figures = segmentation.evaluate(Told(), batches(said, truth))
    counts = truth != IGNORED
    ious, dices = [], []
    for label in range(3):
        a, b = (said == label) & counts, truth == label
        ious.append(float((a & b).sum() / (a | b).sum()))
        dices.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
        assert figures[f"iou.{label}"] == pytest.approx(ious[-1])
    assert "iou.3" not in figures
    assert figures["mean_iou"] == pytest.approx(sum(ious) / 3) and figures["dice"] == pytest.approx(sum(dices) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(float((said == truth)[counts].float().mean()))
    logits = Told()(said[:, None] / 100)
    expected = F.cross_entropy(logits, truth.long(), ignore_index=IGNORED)
    assert figures["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_figures_do_not_depend_on_how_much_is_done_at_once(monkeypatch):
    whole = segmentation.evaluate(Told(), batches(MASKS.roll(1, 1), MASKS))
    monkeypatch.setattr(segmentation, "AT_ONCE", 1)
    assert segmentation.evaluate(Told(), batches(MASKS.roll(1, 1), MASKS)) == pytest.approx(whole)
    split = batches(MASKS[:1].roll(1, 1), MASKS[:1]) + batches(MASKS[1:].roll(1, 1), MASKS[1:])
    assert segmentation.evaluate(Told(), split) == pytest.approx(whole)


def test_metrics_get_the_pixels_that_count():
    torchmetrics = pytest.importorskip("torchmetrics")
    truth = MASKS.masked_fill(HOLED < 0, IGNORED).byte()
    metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=4)
    figures = segmentation.evaluate(Told(), batches(MASKS.roll(1, 2), truth), {"jaccard": metric})
    assert figures["jaccard"] == pytest.approx(figures["mean_iou"], rel=1e-5) and 0 < figures["mean_iou"] < 1


def test_views_are_moved_back():
    views = made("views", "flip_views")
    assert segmentation.evaluate(Told(), batches(MASKS, MASKS), None, views)["mean_iou"] == 1.0
    one_sided = lambda inputs: [inputs, inputs]  # noqa: E731
    one_sided.back = views.back
    assert segmentation.evaluate(Told(), batches(MASKS, MASKS), None, one_sided)["mean_iou"] < 0.9


def test_predictions_are_shares_of_the_pixels():
    mask = torch.tensor([[[1, 1, 1, 0], [1, 1, 3, 0]]])
    said = segmentation.predict(Told(), mask[:, None] / 100, ["ground", "dog", "cat", "bird"])
    assert said == ["dog 62.5%, ground 25.0%, bird 12.5%"]


def test_pictures_show_truth_beside_prediction():
    images = torch.full((2, 3, 200, 200), 0.5)
    masks = torch.zeros(2, 200, 200, dtype=torch.uint8)
    masks[:, :100], masks[:, 199] = 2, IGNORED
    classes = ["ground", "dog", "cat"]
    [drawn, _] = segmentation.draw(images, masks, classes)
    assert drawn.shape == (3, 214, 200) and drawn[:, :14].any()
    grey, cat = torch.tensor([127] * 3), torch.tensor(segmentation.colour_of(2))
    for row, expected in ((40, grey // 2 + cat // 2), (140, grey // 2), (199, grey)):
        assert torch.equal(drawn[:, 14 + row, 50].long(), expected)
    said = images.clone()
    said[:] = 0.01
    [both, _] = segmentation.draw(said, masks, classes, Told(3))
    assert both.shape == (3, 214, 400)
    assert torch.equal(both[:, 54, 300].long(), 2 // 2 + torch.tensor(segmentation.colour_of(1)) // 2)
    colours = {segmentation.colour_of(index) for index in range(30)}
    assert len(colours) == 30


# ------------------------------------------------------------------------------------------------------- experiments


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """read(changes) -> the shipped ingredients of segmentation, made small, in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    small = {
        "project.name": "scenes",
        "project.data.source": f"file:{HERE}/data/digits.tgz",
        "project.data.root": f"{tmp_path}/data/",
        "training.load_dataset.count": "16",
        "training.load_dataset.image_size": "[48, 48]",
        "validation.load_dataset.count": "4",
        "testing.load_dataset.count": "4",
        "model.architecture.options": '{"widths": [4, 8], "stride": 2}',
        "training.scheme.epochs": "2",
        "training.scheme.batch_size": "8",
    }

    def read(changes=None):
        taken = [(path, text, True) for path, text in (small | (changes or {})).items() if text is not None]
        return read_ingredients(INI, taken)

    return read


def run(ingredients, resume=None):
    return recipe(ingredients, resolve(ingredients), resume)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_experiment_from_end_to_end(scenes, capsys):
    from recipes.validate import measure, open_model

    changes = {"testing.views.@views": "flip_views", "validation.metrics.f1.@metric": "torchmetrics.F1Score"}
    changes |= {"validation.metrics.f1.task": "multiclass", "validation.metrics.f1.num_classes": "11"}
    pytest.importorskip("torchmetrics")
    folder = run(scenes(changes))
    *epochs, tested, finished = lines(folder)
    assert len(epochs) == 2 and {*segmentation.FIGURES, "f1", "iou.background"} <= set(epochs[0]) & set(tested)
    assert (folder / "batch.png").is_file() and (folder / "predictions.png").is_file()
    ingredients, functions, model, meta = open_model(str(folder), scenes(changes))
    assert meta["classes"] == ["background", *map(str, range(10))]
    again, count = measure(ingredients, functions, model, "testing", meta)
    assert count == 4 and again == {key: value for key, value in tested.items() if key not in ("split", "epoch")}


@pytest.mark.parametrize(
    "augment",
    [
        {"@augment": "random_shift", "pixels": "4"},
        {"@augment": "torchvision.transforms.v2.RandomAffine", "degrees": "[-10, 10]", "pixels": None},
    ],
)
def test_interrupted_and_continued_is_the_same(scenes, augment):
    changes = {f"training.augment.{key}": value for key, value in augment.items()}
    whole = run(scenes(changes | {"project.name": "whole"}))
    ingredients = scenes(changes)
    functions, calls = resolve(ingredients), []
    criterion = functions.training.loss

    def stop_in_epoch_2(logits, targets):
        calls.append(1)
        if len(calls) == 4:  # 2 steps an epoch
            raise KeyboardInterrupt
        return criterion(logits, targets)

    functions.training["loss"] = stop_in_epoch_2
    with pytest.raises(KeyboardInterrupt):
        recipe(ingredients, functions)
    folder = run(ingredients, resume="")
    assert len(list(folder.parent.iterdir())) == 1 and len(calls) == 4
    for name in ("last.pt", "best.pt"):
        one, other = (checkpoint.load(path / "checkpoints" / name)["model"] for path in (folder, whole))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    for one, other in zip(lines(folder), lines(whole), strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_masks_in_memory_and_from_disk_train_alike(scenes):
    """Whether the samples fit in memory changes nothing, nor do workers."""
    same = []
    for name, memory in (("kept", "4.0"), ("read", "0.0")):
        folder = run(scenes({"project.name": name, "training.scheme.memory": memory, "training.scheme.epochs": "1"}))
        same.append(checkpoint.load(folder / "checkpoints/last.pt")["model"])
    assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.architecture.backbone": "unett"}, "Did you mean unet"),
        ({"model.architecture.backbone": "small_cnn", "model.architecture.options": "null"}, "a class for each pixel"),
        ({"training.augment.@augment": "mixup", "training.augment.classes": "11"}, "mixup mixes the classes of whole"),
        ({"training.augment.@augment": "torchvision.transforms.v2.RandAugment"}, "not their masks"),
        ({"training.scheme.first_size": "0.5"}, "masks do not grow with the images"),
        ({"training.scheme.balanced": "True"}, "set class_weights of the loss"),
        ({"testing.views.@views": "shift_views"}, "cannot be moved back"),
        ({"model.architecture.output_classes": "10"}, "the data has 11 classes"),
        ({"training.load_dataset.targets": "boxes"}, "a mask of class indices"),
        (
            {"training.preprocess.@preprocess": "resize_and_scale", "training.preprocess.size": "[24, 24]"},
            "image_size in the loader's section",
        ),
        (
            {
                "model.architecture.backbone": "deeplabv3_resnet50",
                "model.architecture.options": "null",
                "training.scheme.batch_size": "1",
            },
            "needs 2 or more",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before(scenes, changes, message):
    plain = {"training.augment.pixels": None} if "training.augment.@augment" in changes else {}
    with pytest.raises(IngredientsError, match=message):
        run(scenes(plain | changes))
    assert not Path("runs").exists()


def test_all_that_is_wrong_is_told_at_once(scenes):
    ingredients = scenes({"training.scheme.first_size": "0.5", "testing.views.@views": "shift_views"})
    with pytest.raises(IngredientsError) as error:
        segmentation.check(ingredients, read_section(ingredients, "model.architecture", Architecture))
    assert len(error.value.problems) == 2


def test_check_looks_at_the_shapes(scenes, capsys):
    from recipes.check import check

    overrides = [("training.load_dataset.count", "16", True), ("training.load_dataset.image_size", "[48, 48]", True)]
    overrides += [(f"{split}.load_dataset.count", "4", True) for split in ("validation", "testing")]
    overrides += [("project.data.source", scenes().at("project.data.source"), True)]
    ini = str(INI)
    assert check(ini, [*overrides, ("project.data.root", "elsewhere/", True)]) == 0
    assert "the data is not here yet" in capsys.readouterr().out
    resolve(scenes()).project.data.download()
    overrides += [("project.data.root", scenes().at("project.data.root"), True)]
    assert check(ini, overrides) == 0
    told = capsys.readouterr().out
    assert "[3, 48, 48] -> [11, 48, 48]" in told and told.endswith("ok\n")


def test_an_image_is_predicted_at_its_own_proportions(tmp_path):
    write(tmp_path / "a.png", np.zeros((60, 20, 3)))
    form = {"size": [32, 32], "channels": 3}
    assert segmentation.read_sample(str(tmp_path / "a.png"), form).shape == (3, 32, 11)
    form = {"size": None, "channels": 3, "float": False, "kind": "tensor", "axes": 3, "channels_last": False}
    assert segmentation.read_sample(str(tmp_path / "a.png"), form).shape == (3, 60, 20)
