"""Keep what the answers ask for, and say what to do next.

Runs again when cookiecutter or cruft render over a project, so it removes only paths that the template itself brought.
"""

import json
import os
import shlex
from pathlib import Path

DIGITS = ["data/digits.tgz", "data/README.md"]
SCENES = [*DIGITS, "pantry/scenes.py"]
LOOP = ["tests/test_interruptions.py", "tests/test_train.py"]
PHOTOS = ["tests/test_photos.py"]
SERVED = ["recipes/serve.py", "recipes/parts/service.py", "recipes/templates/serve.html"]  # images
IMAGE_TASKS = ("classification", "detection", "segmentation")
# What a choice needs and not every project; a file may serve several. A further task or data set is one more line here
# and one more choice in cookiecutter.json.
ONLY_FOR = {
    "task": {
        "classification": [
            "pantry/image_csv.py",
            "recipes/classification.py",
            "recipes/multilabel.py",
            "recipes/parts/evaluation_classification.py",
            *SERVED,
        ],
        "detection": [
            "recipes/detection.py",
            "recipes/parts/evaluation_detection.py",
            "pantry/bodies.py",
            "pantry/box_folders.py",
            "pantry/boxes.py",
            "pantry/detectors.py",
            *SERVED,
        ],
        "segmentation": [
            "recipes/segmentation.py",
            "recipes/parts/evaluation_segmentation.py",
            "pantry/bodies.py",
            "pantry/box_folders.py",
            "pantry/boxes.py",
            "pantry/mask_folders.py",
            "pantry/mask_losses.py",
            "pantry/masks.py",
            "pantry/segmenters.py",
            *SERVED,
        ],
        "tabular": [
            "recipes/classification.py",
            "recipes/parts/evaluation_classification.py",
            "recipes/parts/evaluation_tabular.py",
            "recipes/tabular.py",
            "pantry/tables.py",
            "tests/test_tabular.py",
            "data/diabetes.csv",
            "data/README.md",
        ],
        "text": [
            "recipes/classification.py",
            "recipes/parts/evaluation_classification.py",
            "recipes/text.py",
            "pantry/texts.py",
            "tests/test_text.py",
            *(f"data/udhr/{split}.tsv" for split in ("training", "validation", "testing")),
            "data/README.md",
        ],
        "blank": ["recipes/blank.py", "recipes/parts/evaluation_own.py", "tests/test_blank.py", *SERVED],
    },
    "data": {
        "classification-digits": [*DIGITS, *LOOP],
        "classification-mnist": LOOP,
        "classification-folder": PHOTOS,
        "detection-digits": [*SCENES, "tests/test_detection.py"],
        "detection-folder": PHOTOS,
        "segmentation-digits": [*SCENES, "tests/test_segmentation.py"],
        "segmentation-folder": PHOTOS,
    },
}
# Files of which the chosen one is kept under another name. Settings and attribution of the digits have theirs already.
CHOSEN = {
    "task": {
        "detection": [("ingredients.detection.ini", "ingredients.ini")],
        "segmentation": [("ingredients.segmentation.ini", "ingredients.ini")],
        "tabular": [("ingredients.tabular.ini", "ingredients.ini"), ("data/README.tabular.md", "data/README.md")],
        "text": [("ingredients.text.ini", "ingredients.ini"), ("data/README.text.md", "data/README.md")],
        "blank": [
            ("ingredients.blank.ini", "ingredients.ini"),
            ("custom_functions.blank.py", "custom_functions.py"),
        ],
    },
    "data": {
        "classification-mnist": [("ingredients.mnist.ini", "ingredients.ini")],
        "classification-folder": [("ingredients.folder.ini", "ingredients.ini")],
        "detection-folder": [("ingredients.detection.folder.ini", "ingredients.ini")],
        "segmentation-folder": [("ingredients.segmentation.folder.ini", "ingredients.ini")],
    },
    "license": {name: [(f"licenses/{name}.txt", "LICENSE")] for name in ("MIT", "Apache-2.0", "BSD-3-Clause")},
}


def effective(answers):
    """The answers that count: data to choose from is there for images, and MNIST for classification alone."""
    task, data = answers["task"], answers["data"]
    if task not in IMAGE_TASKS:
        return {key: answer for key, answer in answers.items() if key != "data"}
    return answers | {"data": f"{task}-{'digits' if data == 'mnist' and task != 'classification' else data}"}


def remove(path):
    """Remove a file, and its folder where that leaves it empty."""
    path.unlink(missing_ok=True)
    if path.parent != Path() and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def keep_chosen(answers):
    chosen = effective(answers)
    needed = {file for question, files_of in ONLY_FOR.items() for file in files_of.get(chosen.get(question), ())}
    for file in sorted({file for files_of in ONLY_FOR.values() for files in files_of.values() for file in files}):
        if file not in needed:
            remove(Path(file))
    for question, names_of in CHOSEN.items():
        for choice, names in names_of.items():
            for file, kept_as in names:
                if choice == chosen.get(question) and Path(file).exists():
                    Path(file).replace(kept_as)
                remove(Path(file))
    pyproject = Path("pyproject.toml")
    text = pyproject.read_text(encoding="utf-8").replace('license = "none"\n', "")
    if answers["task"] == "detection" and '    "torchmetrics",\n' not in text:  # which cannot do without
        text = text.replace('    "tqdm",\n]', '    "faster-coco-eval",\n    "torchmetrics",\n    "tqdm",\n]')
    pyproject.write_text(text, encoding="utf-8")


# What can be predicted at once in a new project: of digits, images are there only after the first training.
PREDICT = {"tabular": "data/diabetes.csv", "text": '"alle Menschen sind frei"', "blank": "0.5,-0.2"}


def next_steps(answers):
    project = Path.cwd()
    # The shell's folder, which this process no longer stands in: `cd NAME` is right only from there.
    asked_in = Path(os.environ.get("PWD", ""))
    folder = project.name if asked_in == project.parent else str(project)
    photos = answers["data"] == "folder" and answers["task"] in IMAGE_TASKS
    return (
        f"\n{answers['project_name']} is ready. Next:\n"
        f"    cd {shlex.quote(folder)}\n"
        f"    python train.py{' --project.data.source ~/photos' if photos else ''}\n"
        + (f"    python -m recipes.predict {PREDICT[task]}\n" if (task := answers["task"]) in PREDICT else "")
        + "What it needs is installed once with `pip install -e .`, or by running `uv run train.py` instead.\n"
    )


if __name__ == "__main__":
    ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
    keep_chosen(ANSWERS)
    print(next_steps(ANSWERS))
