"""Render report.html and MODEL_CARD.md of a run from the files in its folder, as training does after each epoch.

python -m recipes.report                       the newest run
python -m recipes.report runs/digits/2026-01-31_12-00-00
"""

import base64
import io
import json
import os
import signal
import threading
import warnings
from contextlib import suppress
from pathlib import Path

from core import Ingredients, IngredientsError, parse
from recipes.parts.command import Command
from recipes.parts.records import flat, read_run

TEMPLATES = Path(__file__).with_name("templates")
INK = "#010203"  # of text and axes in plot.mplstyle; it becomes the colour of the page's text, light or dark


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("run", nargs="?", metavar="RUN", help="a run folder; default: the newest run")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--watch", action="store_true", help="render for each byte of the standard input")
        arguments, ingredients = command.read(with_functions=False)
        if arguments.watch:
            watch(Path(arguments.run))
            return
        if arguments.run is None:
            from recipes.parts.trained import find_trained

            arguments.run = find_trained(None, ingredients).parent.parent
        folder = Path(arguments.run)
        if (folder / "checkpoints/best.pt").is_file() and not (folder / "evaluation/validation.json").is_file():
            evaluate(folder, ingredients)
        render(folder)
        print(f"report: {folder / 'report.html'}")


def watch(folder: Path) -> None:
    """Render for each epoch, of which the process of the run writes a byte, and last when that process has ended."""
    for name in {"SIGINT", "SIGTERM", "SIGHUP"} & {*signal.Signals.__members__}:  # are meant for the run
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    follower = threading.Thread(target=follow, args=[folder])
    follower.start()
    follower.join()
    render(folder)


def follow(folder: Path) -> None:
    """Render during training, at a low priority; on Linux that of this thread alone: nobody waits for it."""
    if os.name != "nt":
        os.nice(19)
    while os.read(0, 1 << 16):  # all epochs since the last one
        with suppress(Exception):  # the last time says what is wrong
            render(folder, is_running=True)


def evaluate(folder: Path, ingredients: Ingredients) -> None:
    """Evaluate the best weights, as a training that reaches its end has done."""
    from tqdm import tqdm

    from recipes.parts.evaluation import evaluate_run
    from recipes.parts.trained import open_trained

    progress = lambda batches, count, text: tqdm(batches, desc=text, leave=False, disable=None)  # noqa: E731
    evaluate_run(open_trained(str(folder), ingredients), "validation", folder / "evaluation", progress)


def render(folder: Path, is_running: bool = False) -> None:
    """Write report.html and MODEL_CARD.md, each complete at any time."""
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = f"a report needs the package {error.name}: python -m pip install {error.name}"
        raise IngredientsError(message) from None
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"plot": plot, "picture": picture}
    run = read(folder) | {"is_running": is_running}
    for template, name in (("report.html", "report.html"), ("model_card.md.jinja", "MODEL_CARD.md")):
        part = folder / f"{name}.part"
        text = environment.get_template(template).render(run)
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, folder / name)


def read(folder: Path) -> dict:
    """What the templates show. A file that is absent, as in the folder of a crashed run, counts as empty."""
    text_of = lambda path: path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""  # noqa: E731
    return vars(read_run(folder)) | {
        "settings": flat(parse(folder / "ingredients.ini")),
        "defaults": json.loads(text_of(folder / "defaults.json") or "{}"),
        "environment": json.loads(text_of(folder / "environment.json") or "{}"),
        "log": text_of(folder / "log.txt"),
        "evaluations": [json.loads(text_of(path)) for path in sorted(folder.glob("evaluation/*.json"))],
    }


def plot(lines: dict[str, tuple], label: str, mark: float | None = None, joined: bool = True) -> str:
    """Name -> (x, y), lists of numbers, as SVG in the colours of the page. mark: x of a dotted line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The browser has letters that the font here may lack, of which matplotlib would warn.
    with rc_context({"svg.hashsalt": label}, TEMPLATES / "plot.mplstyle"), warnings.catch_warnings(action="ignore"):
        figure, file = Figure(), io.StringIO()
        axes = figure.add_subplot(xlabel=label)
        for name, columns in lines.items():
            points = [point for point in zip(*columns, strict=True) if isinstance(point[1], int | float)]
            marker = "." * (len(points) < 60 or not joined)
            written = name.encode(errors="backslashreplace").decode()  # that of a folder may be any bytes
            axes.plot(*zip(*points, strict=True), label=written, linestyle="-" * joined, marker=marker)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8, linestyle=":")
        axes.xaxis.get_major_locator().set_params(integer=label == "epoch")
        if 1 < len(lines) <= 10:
            axes.legend(ncols=1 + len(lines) // 6)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"<svg{file.getvalue().partition('<svg')[2].replace(INK, 'currentColor')}"


def picture(path: Path) -> str:
    """A picture as a data URI, compressed: of photos the files themselves would be too large."""
    from PIL import Image

    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


if __name__ == "__main__":
    main()
