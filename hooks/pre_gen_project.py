"""Refuse, in one line, answers that no safe project can be made of.

Cookiecutter makes the project's folder before it runs this hook: `../x` or `a/b` would already have left folders
behind. So `__stand_in` in cookiecutter.json puts a random name in place of any that is no plain folder name, and
`__asked_name` keeps what was asked for. The answers reach this file as JSON alone: no text of theirs becomes code.
"""

import json
import re
import sys
import unicodedata

MAX_LENGTH = 64  # also in `__stand_in`
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508, ASCII only

# Windows opens a device under these, whatever follows the first dot.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}

# A project called like something it installs depends on itself: pip takes it for the package, and torch is gone.
INSTALLED = (
    {"torch", "torchvision", "fastdownload", "fastprogress", "tqdm", "numpy", "pillow"}
    | {"pytest", "hypothesis", "ipython", "jedi", "ruff", "setuptools", "pip", "wheel", "uv"}
    | {"faster-coco-eval", "torchmetrics", "lightning-utilities"}  # of detection
    | {
        "datasets",
        "fastapi",
        "huggingface-hub",
        "matplotlib",
        "mlflow",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "optuna",
        "python-multipart",
        "safetensors",
        "schedulefree",
        "tensorboard",
        "timm",
        "uvicorn",
        "wandb",
        "webdataset",
    }
    # what those bring
    | {"fastcore", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy"}
    | {"contourpy", "cycler", "fonttools", "kiwisolver", "pyparsing", "python-dateutil", "six", "starlette", "pydantic"}
    | {"colorama", "iniconfig", "packaging", "pluggy", "pygments", "sortedcontainers", "triton", "typing-extensions"}
)
INSTALLED_PREFIXES = ("nvidia-", "cuda-")


def normalized(name):
    """The name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def why_not(name):
    """Why `name` will not do, or None where it will."""
    if not name:
        return "it is empty"
    if len(name) > MAX_LENGTH:
        return f"it has {len(name)} characters, {MAX_LENGTH} at most"
    if not NAME.fullmatch(name):
        return "letters a-z, digits, '-', '_' and '.' only, the first and the last a letter or digit"
    if name.split(".")[0].lower() in DEVICES:
        return "Windows keeps it for a device"
    if normalized(name) in INSTALLED or normalized(name).startswith(INSTALLED_PREFIXES):
        return "the project installs a package of that name"
    return None


def suggestion(name):
    """A name close to `name` that will do."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "-", ascii_only)[: MAX_LENGTH - len("my--project")].strip("-")
    if not slug:
        return "my-project"
    return f"my-{slug}-project" if why_not(slug) else slug


def shown(text):
    """`text` in quotes, on one line, in characters that any terminal can print."""
    return ascii(text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "...")


def refusal(answers):
    """The one line that refuses these answers, or None."""
    name = answers["__asked_name"]
    if reason := why_not(name):
        return f"project_name {shown(name)} will not do: {reason}. This would: {suggestion(name)}"
    for key in ("description", "author"):
        if not answers[key].strip():
            return f"{key} is empty: one line of text is needed"
        for char in answers[key]:
            if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
                return f"{key} holds {char!a}: one line of text is needed, without control characters"
        # Typed at a prompt it stays text, but an update would read it as a template. (This file is one, too.)
        for mark in ("{" + second for second in "#%{"):
            if mark in answers[key]:
                return f"{key} holds {mark!a}, which cookiecutter reads as the start of a template: leave it out"
    return None


if __name__ == "__main__":
    sys.exit(refusal(json.loads(r"""{{ cookiecutter | tojson }}""")))
