"""Keep what the answers ask for, and say what to do next.

Runs again when cookiecutter or cruft render over a project, so it removes only paths that the template itself brought.
"""

import json
import os
import shlex
from pathlib import Path

# What a choice alone needs. A further task or data set is one more line here and one more choice in cookiecutter.json.
ONLY_FOR = {
    "task": {"classification": ["recipes/classification.py"]},
    "data": {"digits": ["data/digits.tgz", "data/README.md"], "mnist": []},
}
# Files of which the chosen one is kept under another name. The digits settings already stand in ingredients.ini.
CHOSEN = {
    "data": {"mnist": ("ingredients.mnist.ini", "ingredients.ini")},
    "license": {name: (f"licenses/{name}.txt", "LICENSE") for name in ("MIT", "Apache-2.0", "BSD-3-Clause")},
}


def remove(path):
    """Remove a file, and its folder where that leaves it empty."""
    path.unlink(missing_ok=True)
    if path.parent != Path() and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def keep_chosen(answers):
    for question, files_of in ONLY_FOR.items():
        kept = files_of[answers[question]]
        for file in sorted({file for files in files_of.values() for file in files} - set(kept)):
            remove(Path(file))
    for question, names_of in CHOSEN.items():
        for choice, (file, kept_as) in names_of.items():
            if choice == answers[question] and Path(file).exists():
                Path(file).replace(kept_as)
            remove(Path(file))
    if answers["license"] == "none":
        pyproject = Path("pyproject.toml")
        text = pyproject.read_text(encoding="utf-8")
        pyproject.write_text(text.replace('license = "none"\n', ""), encoding="utf-8")


def next_steps(answers):
    project = Path.cwd()
    # The shell's folder, which this process no longer stands in: `cd NAME` is right only from there.
    asked_in = Path(os.environ.get("PWD", ""))
    folder = project.name if asked_in == project.parent else str(project)
    return (
        f"\n{answers['project_name']} is ready. Next:\n"
        f"    cd {shlex.quote(folder)}\n"
        "    python train.py\n"
        "What it needs is installed once with `pip install -e .`, or by running `uv run train.py` instead.\n"
    )


if __name__ == "__main__":
    ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
    keep_chosen(ANSWERS)
    print(next_steps(ANSWERS))
