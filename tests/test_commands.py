"""What every script answers on the command line: --help, --check, --print, --explain, --list; and completion."""

import dataclasses
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import core
import pytest
import train as train_script
from core import registry
from pantry.download import download_archive
from recipes import classification, predict, schema, validate
from recipes.parts.command import split_overrides
from recipes.parts.origins import resolved_text, unused_settings, users
from recipes.settings import MEASURED, SECTIONS, declared_paths

HERE = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
INI = str(HERE / "ingredients.ini")
SCRIPTS = {"train": (train_script, [INI]), "validate": (validate, [INI]), "schema": (schema, [INI])}
SCRIPTS["predict"] = (predict, ["image.png", "--ingredients", INI])


@pytest.fixture
def ask(overrides, monkeypatch, capsys):
    """ask("--check", {"a.b": "5"}) -> (exit code, what was printed, what stands on stderr); None leaves one out."""

    def ask(*argv, changes=None, script="train"):
        module, own = SCRIPTS[script]
        merged = overrides | (changes or {})
        added = [f"--add={path}={text}" for path, text in merged.items() if text is not None]
        monkeypatch.setattr("sys.argv", [script, *own, *argv, *added])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            module.main()
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return ask


@pytest.fixture
def here(overrides, archive):
    """The data as the download would leave it."""
    download_archive(f"file:{archive}", Path("data"))()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_setting(ask, script):
    code, said, _ = ask("--help", script=script)
    assert code == 0
    for path in declared_paths(SECTIONS):
        section, _, key = path.rpartition(".")
        item = next(item for item in dataclasses.fields(SECTIONS[section]) if item.name == key)
        lines = said.partition(f"[{section}]\n")[2].partition("\n[")[0]
        default = "" if item.default is dataclasses.MISSING else f" = {item.default}"
        assert f"  {key}{default}  (" in lines and item.metadata["doc"] in lines
    assert "--check" in said and "--print" in said and "--explain PATH" in said and "--add PATH=VALUE" in said


def test_an_unknown_option_names_the_nearest(ask):
    code, _, wrong = ask("--chek")
    assert code == 2 and "unrecognized arguments: --chek" in wrong and "Did you mean --check?" in wrong
    code, _, wrong = ask("--bo\x1b[31mgus=1")
    assert code == 2 and "--quiet" in wrong and "\x1b" not in wrong
    code, _, wrong = ask("second.ini")
    assert code == 2 and "second.ini" in wrong and "Available" not in wrong


def test_a_setting_given_twice(ask):
    code, _, wrong = ask(
        "--training.scheme.epochs", "3", "--training.scheme.epochs=4", changes={"training.scheme.epochs": None}
    )
    assert code == 1 and wrong.count("\n    ") == 1 and "epochs is given twice: 3 and 4" in wrong


def test_overrides_are_split_from_the_other_arguments():
    argv = ["x.ini", "--a.b", "1", "--a.c=x=y", "--add", "p.q=2", "--add=p.r=3", "--traceback", "--explain", "--a.b"]
    overrides = [("a.b", "1", False), ("a.c", "x=y", False), ("p.q", "2", True), ("p.r", "3", True)]
    assert split_overrides(argv) == (overrides, ["x.ini", "--traceback", "--explain", "a.b"])
    missing, setting = "a value is missing", "expected --add section.key=VALUE"
    wrongs = {"--a.b": missing, "--a.b --check": missing, "--add": setting, "--add x": setting, "--add x=3": setting}
    for wrong, told in [(text.split(), told) for text, told in wrongs.items()] + [(["--add", "a.b"], "a.b=VALUE")]:
        with pytest.raises(SystemExit, match=told):
            split_overrides(wrong)


# ------------------------------------------------------------------------------------------ standard output, Ctrl-C


def start(*argv, **options):
    """train.py in the project's folder; processes that end before torch is imported take a tenth of a second."""
    return subprocess.Popen([sys.executable, "train.py", *argv], cwd=HERE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("option", ["--help", "--print", "--list=loss"])
def test_standard_output_that_cannot_be_written(option):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full, start(option, stdout=full) as process:
        wrong = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and wrong.startswith("cannot write to standard output: No space left"), wrong
    reader, writer = os.pipe()
    os.close(reader)
    with start(option, stdout=writer) as process:  # as of `| head -1`, once head has ended
        os.close(writer)
        wrong = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + 13 and wrong == ""
    with start(option, preexec_fn=lambda: os.close(1)) as process:
        wrong = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and wrong.startswith("standard output is closed") and "Traceback" not in wrong


def test_standard_error_that_is_closed():
    command = f"{sys.executable} train.py 2>&-"
    done = subprocess.run(["sh", "-c", f"{command} --training.scheme.epochs x"], cwd=HERE, capture_output=True)
    assert done.returncode == 1
    done = subprocess.run(["sh", "-c", f"{command} --print"], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0 and "[training.scheme]" in done.stdout


def test_started_in_another_folder(tmp_path):
    argv = [sys.executable, HERE / "train.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "run it in the project's folder" in done.stderr and str(HERE) in done.stderr


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.9])
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(seconds):
    with start("--project.name", "p", stdout=subprocess.PIPE) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT) and "Traceback" not in said + wrong


def test_help_and_mistakes_come_before_torch(tmp_path):
    (tmp_path / "wrong.ini").write_text("[a\n")
    for argv in (["--help"], [str(tmp_path / "wrong.ini")], ["--training.scheme.epchs", "3"]):
        code = f"import sys; sys.argv[1:] = {argv}; import train\n"
        code += "try: train.main()\nfinally: sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True)
        assert done.returncode == 0


# ---------------------------------------------------------------------------------------------------- --check


def test_check_of_sound_ingredients_reads_and_writes_nothing(ask, here):
    before = sorted(Path().rglob("*"))
    code, said, wrong = ask("--check")
    assert (code, wrong) == (0, "")
    assert said == (
        "data: 48 training and 12 validation samples, 3 classes\n"
        "model: small_cnn, 23,603 parameters, [1, 16, 16] -> [3]\nok\n"
    )
    assert sorted(Path().rglob("*")) == before


def test_check_before_the_data_is_here(ask):
    code, said, wrong = ask("--check")
    assert (code, wrong) == (0, "")
    assert "the data is not here yet" in said and "its classes; images (3, 224, 224) stand in for it" in said
    assert said.endswith("parameters, [3, 16, 16] -> [3]\nok, except for what could not be checked\n")
    assert list(Path().iterdir()) == []
    code, said, wrong = ask("--check", changes={"model.architecture.backbone": "alexnet"})
    assert (code, wrong) == (0, "") and "not checked: shapes, since these do not fit: cannot take samples of [3" in said


WRONG = {
    "head": ({"project.meta.n_classes": "4"}, "output_classes = ${project.meta.n_classes}", "3 classes (class-0, cl"),
    "shape": ({"model.architecture.backbone": "alexnet"}, "backbone = alexnet", "cannot take samples of [1, 16, 16]"),
    "loss": ({"training.loss.@loss": "own"}, "training.loss", "Using a target size (torch.Size([2]))"),
    "batch loss": (
        {"training.loss.@loss": "each"},
        "training.loss",
        "each returned a tensor of shape [2]",
    ),
    "preprocess": ({"training.preprocess.@preprocess": "flip"}, "training.preprocess", "Dimension out of range"),
    "augment": ({"training.augment.@augment": "flip"}, "training.augment", "not a batch"),
    "schedule": (
        {"training.schedule.@schedule": "high"},
        "training.schedule",
        "returns inf at 0.0, inf at 0.5, inf at",
    ),
    "factory": (
        {"training.loss.class_weights": "[1, -1, 1]"},
        "training.loss",
        "class_weights = [1, -1, 1]: must be at least 0",
    ),
    "interval": (
        {"training.optimizer.learning_rate": "-1"},
        "training.optimizer.learning_rate = -1",
        "must be in [0, inf)",
    ),
    "optimizer": ({"training.optimizer.@optimizer": "own"}, "training.optimizer", "Invalid learning rate: -1"),
    "epochs": ({"training.scheme.epochs": "0"}, "epochs = 0", "must be in (0, inf)"),
    "device": ({"training.scheme.device": "cuda:99"}, "device = cuda:99", "not available"),
    "task": ({"project.meta.task": "clasification"}, "task = clasification", "Did you mean classification?"),
    "backbone": ({"model.architecture.backbone": "resnet19"}, "backbone = resnet19", "Did you mean resnet18?"),
    "folder": ({"training.model.runs": "data/tiny.txt/runs"}, "runs = data/tiny.txt/runs", "tiny.txt is a file; name"),
    "weights": ({"training.model.save_name": "data/tiny.txt/x.pth"}, "save_name = data", "tiny.txt is a file; name"),
    "split": ({"training.scheme.validation_fraction": "0.001"}, "validation_fraction = 0.001", "a split empty"),
    "source": ({"training.load_dataset.source": "data/tini"}, "training.load_dataset", "no such folder"),
    "archive": ({"project.data.source": "file:none.tgz"}, "project.data.download", "none.tgz: there is no such file"),
    "address": ({"project.data.source": "htp://x/y.tgz"}, "project.data.download", "htp://x/y.tgz"),
    "setting": ({"training.scheme.epchs": "3"}, "epchs = 3", "Did you mean epochs?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_finds(ask, here, own, name):
    import torch

    Path("data/tiny.txt").touch()

    def refuse(inputs, targets, generator):
        raise TypeError("not a batch")

    own.loss.register("own")(lambda: torch.nn.MSELoss())
    own.loss.register("each")(lambda: torch.nn.CrossEntropyLoss(reduction="none"))
    own.preprocess.register("flip")(lambda size=0: lambda sample: sample.flip(7))
    own.augment.register("flip")(lambda pixels=0: refuse)
    own.schedule.register("high")(lambda warmup=0: lambda progress: float("inf"))
    own.optimizer.register("own")(lambda **_: lambda model: torch.optim.SGD(model.parameters(), -1.0))
    changes, subject, message = WRONG[name]
    changes = changes | ({"training.loss.label_smoothing": None} if "loss" in name else {})
    code, _, wrong = ask("--check", changes=changes, script="train")
    assert code == 1 and message in wrong
    assert subject in wrong.partition(message)[0].splitlines()[-2]


def test_check_tells_all_at_once(ask, here, own):
    code, said, wrong = ask(
        "--check",
        changes={
            "training.scheme.epchs": "3",
            "training.scheme.epochs": "0",
            "training.scheme.batch_size": "many",
            "training.loss.label_smoothing": "2",
            "project.meta.n_classes": "4",
            "training.optimizer.learning_rate": "-1",
        },
    )
    assert code == 1 and said == ""
    assert wrong.count("\n    ") == 6, wrong


def test_an_unclosed_section_is_one_mistake(ask, here, tmp_path, monkeypatch, capsys):
    for header in ("[model", "[model] x", "[training.scheme", "[training.optimizer"):
        section = header.strip("[] x")
        (tmp_path / "a.ini").write_text(Path(INI).read_text().replace(f"[{section}]\n", f"{header}\n"))
        monkeypatch.setitem(SCRIPTS, "train", (train_script, [str(tmp_path / "a.ini")]))
        code, _, wrong = ask("--check")
        assert code == 1 and wrong.count("\n    ") == 1 and f": {header.partition(' ')[0]}" in wrong, wrong


def test_a_section_without_its_function_is_one_mistake(ask, here, tmp_path, monkeypatch):
    for line, section in (("@loss = cross_entropy\n", "training.loss"), ("@optimizer = sgd\n", "training.optimizer")):
        (tmp_path / "a.ini").write_text(Path(INI).read_text().replace(line, ""))
        monkeypatch.setitem(SCRIPTS, "train", (train_script, [str(tmp_path / "a.ini")]))
        code, _, wrong = ask("--check")
        assert code == 1 and wrong.count("\n    ") == 1 and f"[{section}]" in wrong, wrong


@pytest.mark.parametrize("arguments", [["--check"], []])
@pytest.mark.parametrize(
    ("path", "value"),
    [("training.model.save_name", "data/tiny"), ("training.model.save_name", "data/"), ("project.name", "x" * 300)],
)
def test_names_that_no_file_can_have_are_refused_before_training(ask, here, path, value, arguments):
    code, _, wrong = ask(*arguments, changes={path: value})
    assert code == 1 and wrong.startswith(f"command line: {path} = {value[:100]}"), wrong
    assert wrong.count("\n    ") == 1 and not Path("runs").exists()


def test_check_goes_as_far_as_it_can(ask, here):
    changes = {"training.preprocess.size": "16", "training.optimizer.learning_rate": "-1"}
    code, said, wrong = ask("--check", changes=changes)
    assert code == 1 and "a list" in wrong and "learning_rate = -1" in wrong
    assert said == "not checked before this is mended: shapes\n"


def test_check_of_a_loader_that_does_not_tell(ask, own):
    own.load_dataset.register("own")(lambda **settings: lambda: 1 / 0)
    changes = {"training.load_dataset.@load_dataset": "own", "testing.load_dataset.@load_dataset": "own"}
    code, said, wrong = ask("--check", changes=changes)
    assert (code, wrong) == (0, "")
    assert "not checked: the shapes of [training.load_dataset], whose loader has no check()" in said


def test_check_of_a_model_that_needs_numbers(ask, here, own):
    """As swin_t of torchvision does: it cannot be built on the meta device."""
    import torch

    def build(in_channels, output_classes):
        width = int(torch.ones(()).item()) * 256
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(width, output_classes))

    own.backbone.register("own")(build)
    code, said, _ = ask("--check", changes={"model.architecture.backbone": "own"})
    assert code == 0 and "model: own, 771 parameters, [1, 16, 16] -> [3]" in said


def test_check_in_the_other_scripts(ask, here, train):
    code, _, wrong = ask("--check", script="validate")
    assert code == 1 and "no run yet" in wrong
    train({"training.scheme.epochs": "1"})
    code, said, _ = ask("--check", script="validate")
    assert code == 0 and said.startswith("weights: runs/tiny/")
    code, _, wrong = ask("--check", script="predict")
    assert code == 1 and "image.png: there is no such file" in wrong


def test_no_traceback_for_a_mistake_in_python(tmp_path):
    (tmp_path / "custom_functions.py").write_text("from core import registry\ndef f(:\n")
    shutil.copy(INI, tmp_path / "ingredients.ini")
    code = "import sys; sys.path.append(sys.argv.pop(1)); import train; train.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, HERE, "--training.scheme.epochs", "x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "custom_functions.py:2: def f(:\n    invalid syntax; Python cannot read this file" in done.stderr
    assert "expected a number, got text" in done.stderr


def test_check_of_functions_that_cannot_be_registered_or_run(tmp_path):
    (tmp_path / "custom_functions.py").write_text(
        "from core import registry\n@registry.loss.register('own')\ndef own():\n"
        "    return lambda outputs, targets: {}['x']\n"
    )
    shutil.copy(INI, tmp_path / "ingredients.ini")
    code = "import sys; sys.path.append(sys.argv.pop(1)); import train; train.main()"
    argv = ["--check", "--training.loss.@loss", "own", "--project.data.source", "https://x/y.tgz"]
    argv += ["--training.preprocess.@preprocess", "resize_and_scale", "--add", "training.preprocess.size=[16, 16]"]
    run = [sys.executable, "-c", code, HERE, *argv]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "KeyError: 'x' (custom_functions.py:4)" in done.stderr
    text = (tmp_path / "custom_functions.py").read_text()
    (tmp_path / "custom_functions.py").write_text(text.replace("'own'", "'cross_entropy'"))
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "is taken in the registry loss" in done.stderr and "ok" not in done.stdout


# ------------------------------------------------------------------------------------------ --print and --explain


def test_print_fed_back_trains_identically(ask, train, read, tmp_path):
    from core import resolve
    from recipes.settings import read_ingredients
    from recipes.train import train as train_recipe

    changes = {"training.scheme.epochs": "2", "training.augment.pixels": "2"}
    code, said, _ = ask("--print", changes=changes)
    assert code == 0 and "workers = auto  # default" in said and "epochs = 2" in said
    (tmp_path / "printed.ini").write_text(said)
    first = train(changes)
    again = read_ingredients(tmp_path / "printed.ini")
    second = train_recipe(again, resolve(again))
    assert losses(first) == losses(second)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def test_print_of_a_list_that_closes_at_the_margin(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.ini").write_text(
        "[project]\nn = 1\nlist = [\n  ${n}\n]  # one\nlast = 2\n[model.architecture]\nbackbone=x"
    )
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "a.ini"), "--print"])
    with pytest.raises(SystemExit):
        train_script.main()
    assert "[project]\nn = 1\nlist = [1]\nlast = 2\n" in capsys.readouterr().out


def test_print_escapes_what_a_terminal_would_obey(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.ini").write_text(
        "# \x1b]0;title\x07\n[project]\nname = tab\tand \x1b[31mré\u00a0d\n[model.architecture]\nbackbone=x"
    )
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "a.ini"), "--print"])
    with pytest.raises(SystemExit):
        train_script.main()
    assert capsys.readouterr().out.startswith("# \\x1b]0;title\\x07\n[project]\nname = tab\tand \\x1b[31mré\u00a0d\n")


def test_explain(ask, tmp_path, monkeypatch, capsys):
    (tmp_path / "child.ini").write_text(
        f"[META]\nbase = {INI}\n[training.scheme]\nepochs = 4\n[testing.load_dataset]\n"
        "source = ${training.load_dataset.source}"
    )

    def told(path):
        argv = ["train", str(tmp_path / "child.ini"), "--training.optimizer.momentum=0.8", "--explain", path]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as left:
            train_script.main()
        printed = capsys.readouterr()
        return left.value.code, printed.out + printed.err

    code, said = told("training.scheme.epochs")
    assert code == 0 and said.startswith("training.scheme.epochs = 4\n    kind: an integer\n    from: child.ini:4\n")
    assert "meaning: passes over the training data; 0.5 is half a pass\n    read by: recipes/" in said
    assert "ingredients.ini:" in told("training.scheme.batch_size")[1].splitlines()[2]  # the base file
    assert "    from: its default; the file does not set it\n    meaning: GB" in told("training.scheme.memory")[1]
    said = told("training.optimizer.momentum")[1]
    assert "= 0.8\n" in said and "from: command line\n" in said and "goes to: sgd (" in said
    said = told("training.optimizer.nesterov")[1]
    assert "= true\n    from: its default; the file does not set it\n    goes to: sgd (" in said
    said = told("testing.load_dataset.source")[1]
    assert (
        "from: child.ini:6, written ${training.load_dataset.source}" in said and "goes to: load_image_folder (" in said
    )
    assert "used in: testing.load_dataset.source (child.ini:6)" in told("training.load_dataset.source")[1]
    assert "read by: recipes/" in told("project.name")[1]
    assert told("--training.scheme.epochs") == told("training.scheme.epochs")
    code, said = told("training.scheme.epohs")
    assert code == 1 and "there is no such setting. Did you mean training.scheme.epochs?" in said


@dataclasses.dataclass
class Kitchen:
    """Declared settings for the tests."""

    oven: int = dataclasses.field(default=180, metadata={"doc": "degrees"})
    timer: float | None = None


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("# a\n[project]\nname = x  # b\n\n[kitchen]\noven = 200\ntimer = 1.50\n# the end\n", None),
        (
            "[project]\nroot = /x\n[kitchen]  # hot\nlist = [1,\n  # one\n# two\n\n  ${oven}]  # three\noven = 1 # x\n"
            "# of b\n\n[b]\nk = ${kitchen}\nt = ${env:NO_SUCH:7}\n# last",
            "[project]\nroot = /x\n[kitchen]  # hot\nlist = [1, 7]\n  # one\n# two\n\noven = 7 # x\n"
            'timer = null  # default\n# of b\n\n[b]\nk = ${kitchen}\nt = "7"\n# last\n\n[new]\ny = 2\n',
        ),
        ("[META]\nbase = base.ini\n[kitchen]\noven = 3  # of the base no comment is kept\n", "[kitchen]\noven = 3\n"),
    ],
)
def test_the_resolved_text_keeps_the_comments(tmp_path, text, printed):
    (tmp_path / "a.ini").write_text(text)
    (tmp_path / "base.ini").write_text("[kitchen]\noven = 2\ntimer = 5\n")
    given = [("kitchen.oven", "7"), ("new.y", "2", True)] if "${oven}" in text else ()
    ingredients = core.parse(tmp_path / "a.ini", given)
    found = resolved_text(ingredients, {"kitchen": Kitchen})
    assert printed.strip() in found if "META" in text else found == (printed or text)


def test_a_run_keeps_the_comments_of_its_ingredients(train):
    text = (train({"training.scheme.epochs": "1"}) / "ingredients.ini").read_text()
    comments = [line for line in Path(INI).read_text().splitlines() if line.startswith("#")]
    assert comments and all(line in text for line in comments) and "momentum = 0.9" in text
    assert "weight_decay = 5e-4  # not on norms and biases\n" in text and "epochs = 1\n" in text


def test_the_resolved_text_has_no_section_of_a_function_that_an_override_replaced(tmp_path):
    (tmp_path / "a.ini").write_text("[f]\n@test_kind = join\n[f.g]\nx = 1\n")
    ingredients = core.parse(tmp_path / "a.ini", [("f.@test_kind", "pair")])
    assert core.parse_string(resolved_text(ingredients, {})) == ingredients == {"f": {"@test_kind": "pair"}}


@pytest.mark.parametrize("file", sorted(HERE.glob("ingredients*.ini")), ids=lambda file: file.name)
def test_the_resolved_text_of_shipped_ingredients_reads_back(file):
    ingredients = core.parse(file)
    again = core.parse_string(resolved_text(ingredients))
    for path in [path for path in declared_paths(SECTIONS) if not path.startswith("sweep.")]:  # if there is a [sweep]
        section, _, key = path.rpartition(".")
        default = next(item.default for item in dataclasses.fields(SECTIONS[section]) if item.name == key)
        assert again.at(path) == ingredients.at(path, list(default) if default == () else default)
    for path in ("project", "training.load_dataset", "training.optimizer", "testing.preprocess"):
        assert again.at(path) == ingredients.at(path)


def test_users_of_settings():
    text = "[project]\nn = 3\n[kitchen]\noven = ${project.n}\n[f]\nfirst = ${oven}\noven = [1, ${kitchen:oven}]\n"
    text += "last = a ${first} b ${env:X:1}\n[f.g]\nx = ${oven}\ny = ${kitchen}\n"
    assert users(core.parse_string(text)) == {
        "project.n": ["kitchen.oven"],
        "f.oven": ["f.first", "f.g.x"],
        "kitchen.oven": ["f.oven"],
        "f.first": ["f.last"],
        "kitchen": ["f.g.y"],
    }


def test_unused_settings():
    text = "[project]\nname = x\nn = 3\nfact = 1\n[project.f]\n@test_kind = join\nfirst = a\n[b]\nk = ${project.n}\n"
    assert unused_settings(core.parse_string(text)) == ["project.fact"]


# ----------------------------------------------------------------------------------------------------------- --list


@pytest.mark.parametrize("name", [kind for kind in dict.fromkeys(SECTIONS.values()) if isinstance(kind, str)])
def test_list_has_every_function_with_arguments_meaning_and_place(ask, name):
    code, said, wrong = ask("--list", name)
    assert (code, wrong) == (0, "")
    for key in (key for key in registry[name] if "." not in key):  # other tests asked for some of torch's
        head, meaning, place = said.partition(f"\n{key}(" if not said.startswith(key) else f"{key}(")[2].split("\n")[:3]
        for parameter in inspect.signature(registry[name].get(key)).parameters:
            assert parameter in head
        assert meaning.startswith("    ") and meaning.strip() and place.rpartition(":")[2].isdigit()
    for path in registry[name].names():
        assert path in said


def test_list_of_an_unknown_registry_names_the_nearest(ask):
    code, _, wrong = ask("--list", "lss")
    assert code == 1 and "--list lss" in wrong and "Did you mean loss?" in wrong
    assert ask("--list")[1].splitlines() == sorted(registry)
    code, _, wrong = ask("--list", "xyz")
    assert code == 1 and "load_dataset" in wrong


# ------------------------------------------------------------------------------------------------------- predict


def test_predict_takes_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/b/2.jpg", "a/note.txt", "3.png", "[x].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert list(predict.find_inputs(["3.png", "a", "a/*.png", "[x].png"], classification)) == [
        "3.png",
        "a/1.png",
        "a/b/2.jpg",
        "a/1.png",
        "[x].png",
    ]
    assert list(predict.find_inputs(["?*"], classification)) == ["3.png", "[x].png", "a/1.png", "a/b/2.jpg"]
    Path("empty").mkdir()
    empty, missing, none, last = predict.find_inputs(["empty", "no.png", "*\x1b.gif", "3.png"], classification)
    assert "empty: there is no image" in str(empty) and (missing, last) == ("no.png", "3.png")
    assert "\x1b" not in str(none) and ".gif: there is no such file" in str(none)


# ------------------------------------------------------------------------------------------------- completion


def test_predict_names_the_images_that_cannot_be_read(train, here, monkeypatch, capsys):
    train({"training.scheme.epochs": "1"})
    Path("photos").mkdir()
    for index, image in enumerate(sorted(Path("data/tiny/testing").rglob("*.png"))[:2]):
        shutil.copy(image, f"photos/{index}.png")
    Path("photos/bad.png").write_bytes(b"no image")
    monkeypatch.setattr("sys.argv", ["predict", "photos", "--ingredients", INI, "--project.name", "tiny"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        predict.main()
    printed = capsys.readouterr()
    names = [line.split()[0] for line in printed.out.splitlines()]
    assert left.value.code == 1 and names == ["photos/0.png", "photos/1.png"]
    assert "photos/bad.png" in printed.err and printed.err.count("\n") == 1


def test_ipython_completes(read):
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns["config"] = read()
    with provisionalcompleter():
        for text, wanted in (("config.training.scheme.", {"epochs", "batch_size"}), ("config.tr", {"training"})):
            found = {item.text.rpartition(".")[2] for item in shell.Completer.completions(text, len(text))}
            assert wanted <= found, found


def test_a_language_server_completes_by_the_stub(tmp_path):
    """As jedi sees a copy of core and recipes with the stub in it; pyright was tried by hand with the same outcome."""
    import jedi

    for folder in ("core", "recipes", "pantry"):
        shutil.copytree(HERE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    ingredients = core.parse(INI)
    text = schema.stub(ingredients, "ingredients.ini")
    (tmp_path / "core" / "__init__.pyi").write_text(text)
    assert all(f" {name}" in text for name, thing in vars(core).items() if name[0] != "_" and callable(thing))

    def completed(code):
        script = jedi.Script(code, path=tmp_path / "x.py", project=jedi.Project(tmp_path))
        return {item.name for item in script.complete()}

    start = "from core import parse\nconfig = parse('ingredients.ini')\n"
    assert {"epochs", "batch_size", "memory"} <= completed(start + "config.training.scheme.")
    assert {"learning_rate", "nesterov"} <= completed(start + "config.training.optimizer.")
    read = "from recipes.settings import read_ingredients\nread_ingredients('x').project.data."
    assert {"source", "download"} <= completed(read)
    compile(text, "core/__init__.pyi", "exec")


def test_an_empty_explain_is_no_training(ask):
    code, said, wrong = ask("--explain", "")
    assert code == 1 and "there is no such setting" in wrong and not Path("runs").exists() and said == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model.architecture.weights": "none.pt"},
            "model.architecture.weights = none.pt\n    none.pt: no such file",
        ),
        (
            {"model.architecture.recompute": '["layer9"]'},
            'model.architecture.recompute = ["layer9"]\n    the model has no',
        ),
        ({"training.scheme.best": "f1"}, "training.scheme.best = f1\n    there is no such metric"),
        ({"training.scheme.frozen_epochs": "40"}, "training.scheme.frozen_epochs = 40\n    the body would never"),
        ({"training.scheme.accumulate": "0"}, "training.scheme.accumulate = 0\n    must be in [1, inf)"),
        ({"training.scheme.device": "meta"}, "training.scheme.device = meta\n    computes no numbers; expected auto"),
        ({"training.scheme.first_size": "0.1"}, "training.scheme.first_size = 0.1\n    cannot take [2, 1, 2, 2]"),
        ({"training.augment.@augment": "random_crop", "training.augment.size": "[3, 3]"}, "training.augment\n"),
    ],
)
def test_check_finds_what_the_loop_would_refuse(ask, here, changes, told):
    code, _, wrong = ask("--check", changes=changes)
    assert code == 1 and told in wrong and wrong.count("\n    ") == 1, wrong


def test_check_of_a_run_to_resume(ask, here):
    code, _, wrong = ask("--check", "--resume", "nosuch")
    assert code == 1 and "--resume nosuch: there is no run in this folder" in wrong
    code, said, _ = ask("--check", "--resume")
    assert code == 0 and "there is no run yet" in said


def test_check_takes_a_loss_of_torch_with_weights(ask, here):
    loss = {"training.loss.@loss": "torch.nn.CrossEntropyLoss", "training.loss.weight": "[1, 2, 3]"}
    assert ask("--check", changes=loss)[0] == 0


def test_a_mistake_that_running_custom_functions_meets_is_told_beside_the_others(tmp_path, monkeypatch):
    shutil.copy(INI, tmp_path / "ingredients.ini")
    (tmp_path / "custom_functions.py").write_text("import math\nimport no_such_package\n")
    code = "import sys; sys.path.append(sys.argv.pop(1)); import train; train.main()"
    argv = [sys.executable, "-c", code, str(HERE), "--training.scheme.epochs", "x"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "custom_functions.py:2: import no_such_package\n    ModuleNotFoundError: No module" in done.stderr
    assert "expected a number, got text" in done.stderr


def test_names_in_the_stub_are_python(tmp_path):
    text = "[project.data-set]\nx = 1\n[project.a.b]\ny = 1\n[project.a_b]\nz = 1\n[f.*.first]\nx = 1\n"
    stub = schema.stub(core.parse_string(text), "x.ini")
    compile(stub, "x.pyi", "exec")
    names = [line.split("(")[0] for line in stub.splitlines() if line.startswith("class ")]
    assert len(names) == len(set(names))
