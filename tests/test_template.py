"""Every combination of answers is baked and compared with what it should be; once per task it is tested and trained.

The combinations come from cookiecutter.json, so a new choice is tested the day it appears, and fails until `TASKS_OF`
below says which files are its own.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import forked
import pytest
import yaml
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context
from hypothesis import example, given
from hypothesis import strategies as st

from hooks import post_gen_project, pre_gen_project
from tools.requirements import requirements

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "{{cookiecutter.project_name}}"
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES = {key: value for key, value in QUESTIONS.items() if isinstance(value, list) and not key.startswith("_")}
# Of each task the answers to this question that make a project of their own; any other is the same as the first.
IMAGES = ("classification", "detection", "segmentation")
COUNTS_FOR = {"data": {"digits": QUESTIONS["task"], "mnist": ["classification"], "folder": IMAGES}}
COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
COMBINATIONS = [
    answers
    for answers in COMBINATIONS
    if all(answers["task"] in tasks_of[answers[key]] for key, tasks_of in COUNTS_FOR.items())
]
NAME = "my-Digits_2"

# What a project holds follows from the names of the files that git tracks. A word in the path of a file says which
# tasks it is for; one with none of these words is for all.
SCENES = {"detection", "segmentation"}
TASKS_OF = {
    "classification": {"classification", "tabular", "text"},
    "detection": {"detection"},
    "detectors": {"detection"},
    "bodies": SCENES,
    "box": SCENES,
    "boxes": SCENES,
    "scenes": SCENES,
    "segmentation": {"segmentation"},
    "segmenters": {"segmentation"},
    "mask": {"segmentation"},
    "masks": {"segmentation"},
    "tabular": {"tabular"},
    "tables": {"tabular"},
    "diabetes": {"tabular"},
    "text": {"text"},
    "texts": {"text"},
    "udhr": {"text"},
    "blank": {"blank"},
    "serve": {"classification", "blank", *SCENES},
    "service": {"classification", "blank", *SCENES},
}
# Files whose names do not say it.
FOR_CLASSIFICATION = {
    "pantry/image_csv.py",
    "recipes/multilabel.py",
    "tests/test_interruptions.py",
    "tests/test_train.py",
}
OF_DIGITS = {f"tests/test_{name}.py" for name in ("detection", "segmentation", "interruptions", "train")}
# Where a choice keeps one of several files under another name: what it is called in the template.
KEPT_AS = {
    ("task", "tabular"): {"ingredients.ini": "ingredients.tabular.ini", "data/README.md": "data/README.tabular.md"},
    ("task", "text"): {"ingredients.ini": "ingredients.text.ini", "data/README.md": "data/README.text.md"},
    ("task", "blank"): {
        "ingredients.ini": "ingredients.blank.ini",
        "custom_functions.py": "custom_functions.blank.py",
    },
    ("task", "detection"): {"ingredients.ini": "ingredients.detection.ini"},
    ("task", "segmentation"): {"ingredients.ini": "ingredients.segmentation.ini"},
    ("data", "mnist"): {"ingredients.ini": "ingredients.mnist.ini"},
    ("data", "folder"): {"ingredients.ini": "ingredients.folder.ini"},
}
FOLDERS = {task: f"ingredients.{task}.folder.ini" for task in ("detection", "segmentation")}
VARIANTS = {file for files in KEPT_AS.values() for file in files.values()} | set(FOLDERS.values())
VARIANTS |= {f"licenses/{name}.txt" for name in CHOICES["license"] if name != "none"}
# What may lie at the top of a project, and what in its folders: anything else was added by accident.
TOP = {".gitignore", ".vscode", "LICENSE", "README.md", "core", "custom_functions.py", "data", "ingredients.ini"}
TOP |= {"pantry", "pyproject.toml", "recipes", "tests", "train.py"}
INSIDE = {
    "core": {".py"},
    "pantry": {".py"},
    "recipes": {".py", ".html", ".jinja", ".mplstyle"},
    "tests": {".py"},
    ".vscode": {".json"},
}
INSIDE["data"] = {".tgz", ".csv", ".tsv", ".md"}
FIGURES = {  # the figure and the least that the default training must reach on validation
    "classification": ("accuracy", 0.985),
    "tabular": ("r2", 0.45),
    "text": ("accuracy", 0.9),
    "blank": ("loss", -0.01),  # the negative of a loss
    "detection": ("map50", 0.6),
    "segmentation": ("mean_iou", 0.35),  # reached: 0.47; background alone: 0.085
}
# What makes the default training shorter, where it takes minutes.
SHORTER = {
    "detection": ["--training.scheme.epochs", "4"],
    "segmentation": [
        *("--training.scheme.epochs", "2", "--training.scheme.batch_size", "8"),
        *("--training.load_dataset.image_size", "[64, 64]", "--validation.load_dataset.count", "100"),
    ],
}


def combination_id(answers):
    return "-".join(answers.values())


every_combination = pytest.mark.parametrize("answers", COMBINATIONS, ids=combination_id)
every_task = pytest.mark.parametrize("task", CHOICES["task"])


def counting(answers):
    """Those of the answers that count, as (question, choice)."""
    task = answers["task"]
    return [(key, value) for key, value in answers.items() if key not in COUNTS_FOR or task in COUNTS_FOR[key][value]]


def in_template(name, answers):
    """What a file of a project that was rendered with these answers is called in the template."""
    if name == "ingredients.ini" and answers["data"] == "folder" and answers["task"] in FOLDERS:
        return FOLDERS[answers["task"]]
    return next((KEPT_AS[item][name] for item in counting(answers) if name in KEPT_AS.get(item, ())), name)


@pytest.fixture(scope="module")
def bake(cookies_session, template):
    """Bake a project, once for the same answers; whoever writes into one asks for a fresh one."""
    baked = {}

    def bake(fresh=False, **answers):
        key = tuple(answers.items())
        if fresh or key not in baked:
            result = cookies_session.bake(extra_context={"project_name": NAME} | answers, template=str(template))
            assert result.exception is None, result.exception
            if fresh:
                return result.project_path
            baked[key] = result.project_path
        return baked[key]

    return bake


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def run(command, cwd, env):
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=env, capture_output=True, text=True)


# What is rendered


@pytest.fixture(scope="module")
def in_project(tracked):
    """The files of the template's project folder."""
    return {name.removeprefix(f"{FOLDER}/") for name in tracked if name.startswith(f"{FOLDER}/")}


def expected(in_project, answers):
    """The files of a project that was rendered with these answers."""

    def is_for(name):
        task = answers["task"]
        if name in VARIANTS:
            return False
        of_photos = answers["data"] == "folder" and task in IMAGES
        if name == "data/digits.tgz" or (name == "data/README.md" and task not in ("tabular", "text")):
            return not of_photos and (task in SCENES or (task, answers["data"]) == ("classification", "digits"))
        if name == "tests/test_photos.py":
            return of_photos
        if name == "recipes/parts/evaluation_own.py":
            return task == "blank"
        if of_photos and (name == "pantry/scenes.py" or name in OF_DIGITS):
            return False
        words = TASKS_OF.keys() & set(re.split("[/._]", name))
        return all(task in TASKS_OF[word] for word in words) and (
            task == "classification" or name not in FOR_CLASSIFICATION
        )

    return {name for name in in_project if is_for(name)} | ({"LICENSE"} if answers["license"] != "none" else set())


@every_combination
def test_exactly_these_files_are_rendered(bake, in_project, answers):
    files = files_in(bake(**answers))
    assert files == expected(in_project, answers)
    assert {name.split("/")[0] for name in files} <= TOP
    for name in files:
        if "/" in name:
            assert Path(name).suffix in INSIDE[name.split("/")[0]], name


def test_every_file_of_the_template_reaches_some_project(in_project):
    reached = set().union(*(expected(in_project, answers) for answers in COMBINATIONS)) - {"LICENSE"}
    assert reached == in_project - VARIANTS
    assert in_project >= VARIANTS | FOR_CLASSIFICATION


@every_combination
def test_python_and_data_are_copied_byte_for_byte(bake, template, answers):
    project = bake(**answers)
    copies = (".py", ".tgz", ".csv", ".tsv", ".json", ".gitignore", ".html", ".jinja")
    copied = [name for name in files_in(project) if name.endswith(copies)]
    assert copied
    for name in copied:
        assert (project / name).read_bytes() == (template / FOLDER / in_template(name, answers)).read_bytes(), name


@every_combination
def test_no_jinja_is_left(bake, answers):
    project = bake(**answers)
    for name in files_in(project):
        if not name.endswith((".py", ".tgz")):
            text = (project / name).read_text(encoding="utf-8")
            own = "cookiecutter" if name.startswith("recipes/templates/") else r"\{\{|\{%|\{#|cookiecutter"
            assert not re.search(own, text), name
            assert text.endswith("\n") and not text.endswith("\n\n"), f"{name}: one newline at its end"


@every_combination
def test_settings_are_those_of_the_choice_with_the_name_put_in(bake, template, answers):
    source = (template / FOLDER / in_template("ingredients.ini", answers)).read_text(encoding="utf-8")
    rendered = (bake(**answers) / "ingredients.ini").read_text(encoding="utf-8")
    assert rendered == source.replace("{{ cookiecutter.project_name }}", NAME)
    assert f'name = "{NAME}"' in rendered


@every_combination
def test_pyproject_says_what_was_answered(bake, answers):
    project = tomllib.loads((bake(**answers) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == NAME
    assert project["description"] == rendered("description", **answers)[1]
    assert project["authors"] == [{"name": QUESTIONS["author"]}]
    assert project.get("license", "none") == answers["license"]


@every_combination
def test_readme_names_the_project(bake, answers):
    assert NAME in (bake(**answers) / "README.md").read_text(encoding="utf-8")


LICENSE_OPENINGS = {
    "MIT": f"MIT License\n\nCopyright (c) {QUESTIONS['author']}\n",
    "Apache-2.0": "\n" + 33 * " " + "Apache License\n" + 27 * " " + "Version 2.0, January 2004\n",
    "BSD-3-Clause": f"BSD 3-Clause License\n\nCopyright (c) {QUESTIONS['author']}\n",
}


@pytest.mark.parametrize("name", [name for name in CHOICES["license"] if name != "none"])
def test_licence_is_the_one_chosen(bake, name):
    assert (bake(license=name) / "LICENSE").read_text(encoding="utf-8").startswith(LICENSE_OPENINGS[name])


def test_renderings_are_lint_free(bake, user_env, tmp_path):
    """All of them in one call, each with the settings of its own pyproject.toml."""
    projects = [str(bake(**answers)) for answers in COMBINATIONS]
    for command in (["check"], ["format", "--check"]):
        done = run(["ruff", *command, "--no-cache", *projects], tmp_path, user_env)
        assert done.returncode == 0, done.stdout + done.stderr


# What it does


@every_task
def test_rendered_project_passes_its_own_tests(bake, user_env, task):
    project = bake(fresh=True, task=task)
    # What is the same in all projects is tested once, but for the tests that read the project's ini.
    files = [] if task == "classification" else [f"tests/test_{task}.py", "tests/test_ingredients.py"]
    assert re.search(r"\d+ passed", forked.run_one(project, "pytest", "-q", *files, env=user_env))


@every_task
def test_rendered_project_trains_to_its_figure(bake, user_env, task):
    project = bake(fresh=True, task=task)
    printed = forked.run_one(project, "train.py", *SHORTER.get(task, ()), env=user_env)
    (metrics,) = project.glob("runs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure, least = FIGURES[task]
    assert max(-line[figure] if least < 0 else line[figure] for line in lines if "train_loss" in line) >= least
    assert str(metrics.parent.relative_to(project)) in printed.splitlines()[-1], "the last line names the run"


def test_settings_of_the_other_data_pass_the_tests_of_the_loop(bake, user_env):
    forked.run_one(bake(fresh=True, data="mnist"), "pytest", "-q", "tests/test_train.py", env=user_env)


ARTICLE_INI = """\
[project]
version = 0.0.1
name = mnist-classification
root = .
[project.data]
source = https://s3.amazonaws.com/fast-ai-imageclas/mnist_png.tgz
root = ${root}/data/
[project.meta]
task = classification
n_classes = 10

[model]
version= 0.0.0
[model.architecture]
backbone = small_cnn
output_classes = ${project.meta.n_classes}

[training.load_dataset]
@load_dataset = load_mnist_from_disk
source = ${project.data.root}
[training.preprocess]
@preprocess = divide_by_255
[training.scheme]
epochs = 10
batch_size = 128
early_stop = True
[training.model]
save_dir = ${project.root}/models/
save_name = ${save_dir}/${model.version}/model.pth
save_all_checkpoints = False

[testing]
debug = False
[testing.preprocess]
@preprocess = resize_and_divide_by_255
"""
ARTICLE_FUNCTIONS = """\
from core import registry

registry.create("load_dataset")
registry.create("preprocess")

@registry.load_dataset.register("load_mnist_from_disk")
def wrapper(source):
    def loader():
        import tarfile, io
        import numpy as np
        from PIL import Image
        with tarfile.open(source + "digits.tgz") as tar:
            files = [m for m in tar.getmembers() if m.name.endswith(".png") and "/training/" in m.name]
            X = np.stack([np.asarray(Image.open(io.BytesIO(tar.extractfile(m).read()))) for m in files])
        y = np.array([int(m.name.split("/")[-2]) for m in files])
        return X, y
    return loader

@registry.preprocess.register("divide_by_255")
def wrapper():
    def preprocess(input):
        return input/255.
    return preprocess

@registry.preprocess.register("resize_and_divide_by_255")
def wrapper():
    def preprocess(input):
        import numpy as np
        from PIL import Image
        input = np.asarray(Image.fromarray(input).resize((8, 8)))
        return input/255.
    return preprocess
"""


def test_experiment_of_the_articles_trains_as_it_is(bake, user_env):
    """Their settings and functions, on the images at hand: sections that we add stay away, and defaults serve."""
    project = bake(fresh=True, data="digits")
    (project / "ingredients.ini").write_text(ARTICLE_INI, encoding="utf-8")
    (project / "custom_functions.py").write_text(ARTICLE_FUNCTIONS, encoding="utf-8")
    with tarfile.open(project / "data/digits.tgz") as tar:
        image = next(member for member in tar.getmembers() if "/testing/7/" in member.name)
        tar.extract(image, project, filter="data")
    scripts = [("train.py",), ("recipes.predict", image.name)]
    (code, printed), (predict_code, prediction) = forked.run(project, *scripts, env=user_env)
    assert code == 0 and "1,200 training and 300 validation samples, 10 classes" in printed, printed
    (metrics,) = project.glob("runs/mnist-classification/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert max(line["accuracy"] for line in lines if "train_loss" in line) >= 0.95
    assert (project / "models/0.0.0/model.pth").is_file()
    assert predict_code == 0 and prediction.split()[1] == "7", prediction


def test_project_runs_where_it_lies(template, tmp_path, user_env):
    project = shutil.copytree(template / FOLDER, tmp_path / FOLDER)
    forked.run_one(project, "train.py", "--testing.debug", "True", env=user_env)


# The questions


def test_every_question_and_choice_is_put_in_words():
    prompts = QUESTIONS["__prompts__"]
    assert set(prompts) == {key for key in QUESTIONS if not key.startswith("_")}
    for key, choices in CHOICES.items():
        assert set(prompts[key]) == {"__prompt__", *choices}


def test_hooks_know_every_choice():
    assert set(post_gen_project.ONLY_FOR["task"]) == set(CHOICES["task"])
    kinds = {post_gen_project.effective(answers).get("data") for answers in COMBINATIONS} - {None}
    assert set(post_gen_project.ONLY_FOR["data"]) == kinds
    for question, plain in {"license": "none", "task": "classification"}.items():
        assert set(post_gen_project.CHOSEN[question]) == set(CHOICES[question]) - {plain}
    assert set(post_gen_project.CHOSEN["data"]) == {kind for kind in kinds if not kind.endswith("digits")}


def test_mnist_is_the_same_as_digits_where_it_has_no_use(bake):
    for task in ("detection", "text"):
        digits, mnist = bake(task=task, data="digits"), bake(task=task, data="mnist")
        assert {name: (digits / name).read_bytes() for name in files_in(digits)} == {
            name: (mnist / name).read_bytes() for name in files_in(mnist)
        }


@pytest.mark.parametrize("hook", sorted((ROOT / "hooks").glob("*.py")), ids=lambda hook: hook.stem)
def test_hooks_take_answers_as_json_and_need_the_standard_library_alone(hook):
    code = hook.read_text(encoding="utf-8")
    assert re.findall(r"\{[{%#][^}]*", code) == ["{{ cookiecutter | tojson "]
    assert set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.M)) <= sys.stdlib_module_names


# Refusals

GOOD_NAMES = ["x", "a.b", "A_b-C", "9lives", "a--b", "test", "core", "json", "class", "my-torch", "x" * 64]
BAD_NAMES = {  # each with a name that would do
    "": "my-project",
    ".": "my-project",
    "..": "my-project",
    "../x": "x",
    "../../x/y": "x-y",
    "a/b/c": "a-b-c",
    "a\\b": "a-b",
    "C:x": "C-x",
    "~/x": "x",
    "two words": "two-words",
    "line\nbreak": "line-break",
    "nul\0byte": "nul-byte",
    "x\n": "x",
    'x"; import os; os.system("touch pwned") #': "x-import-os-os-system-touch-pwned",
    "x'''+__import__('os').system('touch pwned')+'''": "x-import-os-system-touch-pwned",
    'x"""+__import__("os").system("touch pwned")+r"""': "x-import-os-system-touch-pwned-r",
    "$(touch pwned)": "touch-pwned",
    "-rf": "rf",
    ".hidden": "hidden",
    "trailing.": "trailing",
    "trailing-": "trailing",
    "d\u0456gits": "dgits",  # a Cyrillic letter that looks like an i
    "\uff44igits": "digits",  # a fullwidth d
    "d\xedgitos": "digitos",
    "\U0001f600": "my-project",
    "\udcff": "my-project",  # what a shell hands over for a byte that is no UTF-8
    "x" * 300: "x" * 53,
    "CON": "my-CON-project",
    "com1.txt": "com1-txt",
    "torch": "my-torch-project",
    "typing.extensions": "my-typing-extensions-project",
    "NVIDIA_cublas-cu13": "my-NVIDIA-cublas-cu13-project",
}


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", [*BAD_NAMES, "/ABSOLUTE/x"], ids=ascii)
def test_bad_name_is_refused_in_one_line_and_nothing_is_left(template, tmp_path, user_env, capfd, monkeypatch, name):
    (tmp_path / "deep" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    name = name.replace("/ABSOLUTE", str(tmp_path))
    better = BAD_NAMES.get(name, pre_gen_project.suggestion(name))
    before = tree(tmp_path), tree(template)
    with pytest.raises(Exception, match=r"^Hook script failed \(exit status: 1\)$"):
        cookiecutter(
            str(template),
            no_input=True,
            extra_context={"project_name": name},
            output_dir=str(tmp_path / "deep" / "out"),
            config_file=user_env["COOKIECUTTER_CONFIG"],
        )
    assert (tree(tmp_path), tree(template)) == before
    refusals = [line for line in "".join(capfd.readouterr()).splitlines() if line]
    assert len(refusals) == 1
    assert re.fullmatch(rf"project_name .* will not do: .*\. This would: {re.escape(better)}", refusals[0])


def test_bad_name_does_not_touch_a_folder_that_is_there(template, tmp_path, user_env):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "thesis.txt").touch()
    (tmp_path / "out").mkdir()
    command = ["cookiecutter", str(template), "--no-input", "--overwrite-if-exists", "-o", "out"]
    done = run([*command, "project_name=../kept"], tmp_path, user_env)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, "the refusal is one line; cookiecutter adds its own report to stdout"
    assert tree(tmp_path) == {"kept", "kept/thesis.txt", "out"}


@pytest.mark.parametrize("key", ["description", "author"])
@pytest.mark.parametrize(
    "text", ["", " ", "two\nlines", "tab\there", "bell\a", "\x7f", "\x85", "\u2028", "\udcff"], ids=ascii
)
def test_text_that_is_not_one_line_is_refused(key, text):
    answers = {"__asked_name": "x", "description": "d", "author": "a", key: text}
    assert re.fullmatch(rf"{key} .*: one line of text is needed.*", pre_gen_project.refusal(answers))


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_name_is_taken(name):
    assert pre_gen_project.why_not(name) is None
    assert rendered("__stand_in", project_name=name) == (name, "")


# The tools of the template alone, which no project installs.
TEMPLATE_ONLY = {"confection", "cookiecutter", "coverage", "pytest-cookies", "pytest-xdist", "pyyaml", "scikit-learn"}
TEMPLATE_ONLY |= {"httpx", "playwright"}


def test_name_of_anything_installed_is_refused():
    for requirement in requirements():
        name = re.match(r"[\w.-]+", requirement)[0]
        if name not in TEMPLATE_ONLY:
            assert pre_gen_project.why_not(name) == "the project installs a package of that name"


@given(st.text(max_size=80))
@example("CON." + "x" * 80)
@example("nvidia-" + "x" * 80)
def test_suggested_name_will_do(name):
    assert pre_gen_project.why_not(pre_gen_project.suggestion(name)) is None


ENVIRONMENT = create_env_with_context({"cookiecutter": {}})


def rendered(variable, **answers):
    """The project's name afterwards, and the text of a private variable of cookiecutter.json."""
    text = ENVIRONMENT.from_string(QUESTIONS[variable]).render(cookiecutter=answers)
    return answers.get("project_name"), text


@given(st.text(max_size=70) | st.text("aZ9._-/\\\n", max_size=70))
def test_stand_in_replaces_every_name_that_is_no_plain_folder(name):
    folder, _ = rendered("__stand_in", project_name=name)
    if len(name) <= 64 and pre_gen_project.NAME.fullmatch(name):
        assert folder == name
    else:
        assert re.fullmatch("refused-[a-zA-Z]{16}", folder)


@pytest.mark.parametrize("key", ["description", "author"])
@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))))
@example(text='\\"')
@example(text="\\u0041 \\")
def test_text_stands_in_toml_as_it_was_given(key, text):
    _, escaped = rendered(f"__{key}_toml", **{key: text})
    assert tomllib.loads(f'x = "{escaped}"') == {"x": text}


NASTY = '""" \'\'\' \\ \\" \\n C:\\temp ${x} <b>&amp; $(touch pwned) % \u00e9 \u6f22 \U0001f600, # = [x]'


def test_nasty_text_is_rendered_as_it_was_given(bake):
    project = bake(description=NASTY, author=NASTY)
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert about["description"] == NASTY
    assert about["authors"] == [{"name": NASTY}]
    assert f"Copyright (c) {NASTY}\n" in (project / "LICENSE").read_text(encoding="utf-8")


# After rendering


def test_next_commands_are_printed(template, tmp_path, user_env):
    command = ["cookiecutter", str(template), "--no-input"]
    done = run(command, tmp_path, user_env | {"PWD": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "\n    cd digits-classifier\n    python train.py\n" in done.stdout
    done = run([*command, "-o", "else where"], tmp_path, user_env | {"PWD": str(tmp_path)})
    assert f"\n    cd '{tmp_path}/else where/digits-classifier'\n" in done.stdout
    done = run([*command, "task=detection", "data=folder"], tmp_path, user_env | {"PWD": str(tmp_path)})
    assert "\n    cd photo-detector\n    python train.py --project.data.source ~/photos\n" in done.stdout


@every_combination
def test_rendering_again_keeps_what_is_the_users(template, bake, user_env, answers):
    project = bake(fresh=True, **answers)
    before = files_in(project)
    own = {"ingredients.large.ini", "data/mine/1.png", "runs/a/b/metrics.jsonl", "recipes/mine.py", "licenses/x.txt"}
    for name in own:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("mine")
    cookiecutter(
        str(template),
        no_input=True,
        extra_context={"project_name": NAME} | answers,
        output_dir=str(project.parent),
        config_file=user_env["COOKIECUTTER_CONFIG"],
        overwrite_if_exists=True,
    )
    assert files_in(project) == before | own
    assert all((project / name).read_text() == "mine" for name in own)


@every_combination
def test_pruning_twice_changes_nothing(bake, monkeypatch, answers):
    project = bake(**answers)
    before = {name: (project / name).read_bytes() for name in files_in(project)}
    monkeypatch.chdir(project)
    post_gen_project.keep_chosen(answers)
    assert {name: (project / name).read_bytes() for name in files_in(project)} == before


# The commands


def test_ci_and_workflow_call_make():
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert ci.read_text().splitlines()[-2:] == ["make test", "make fuzz"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make demo", "make test", "make fuzz"]


def test_ruff_is_one_version():
    pinned = [requirement for requirement in requirements() if requirement.startswith("ruff==")]
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert all(hook["additional_dependencies"] == pinned for hook in repo["hooks"])


def test_old_python_is_refused_in_one_line(template, tmp_path, user_env):
    shutil.copytree(template, tmp_path / "copy")
    old = tmp_path / "python3.9"
    old.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 9); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}"], cwd=tmp_path / "copy", env=user_env, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"Python 3.11 or newer is needed, {old} is 3.9: name another with make PYTHON=..." in done.stderr
    assert not (tmp_path / "copy" / ".venv").exists()
