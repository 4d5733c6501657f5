"""Predict what the task takes: images, files of rows, texts.

python -m recipes.predict a.png b.jpg                    with the best weights of the newest run
python -m recipes.predict photos "*.png" https://example.org/a.jpg    of a folder, a pattern, an address
find photos -newer a.png | python -m recipes.predict -   paths or texts, one a line; or an image: < a.png
python -m recipes.predict photos --output photos.csv     or .jsonl
python -m recipes.predict photos --draw drawn --top 5    also as pictures, with the five most probable classes
python -m recipes.predict a.png --run models/0.0.0/model.pth
"""

import csv
import glob
import io
import json
import os
import re
import sys
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from core import Ingredients, IngredientsError
from core.errors import escaped
from recipes.parts.command import Command

FORMATS = {".csv": "csv", ".jsonl": "json"}  # by the suffix of --output


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("inputs", nargs="+", metavar="INPUT")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        command.add_argument("--top", type=int, default=1, metavar="N", help="name the N most probable classes")
        command.add_argument("--format", choices=["table", "json", "csv"], help="default: as --output, or table")
        command.add_argument("--output", metavar="FILE", help="write a file instead: .csv or .jsonl")
        command.add_argument("--draw", metavar="FOLDER", help="write each image with its prediction, as PNG")
        command.add_argument("--batch-size", type=int, metavar="N", help="default: that of training, at most 64")
        arguments, ingredients = command.read(with_functions=False, checks=[check_inputs])
        if any(number is not None and number < 1 for number in (arguments.top, arguments.batch_size)):
            raise IngredientsError("--top and --batch-size must be at least 1")
        from recipes.parts.calling import carried
        from recipes.parts.predictor import open_predictor

        predictor = open_predictor(arguments.run, ingredients, command.overrides, arguments.top)
        command.ingredients = predictor.experiment.ingredients
        if arguments.draw and (reads := carried(predictor.task, "READS")):
            raise IngredientsError(f"--draw needs images; this task reads {reads}")
        command.interruptible()
        if write_all(predictor, arguments):
            raise SystemExit(1)


def write_all(predictor, arguments) -> bool:
    """Write all predictions, and report inputs without one, in order; returns whether there were any of these."""
    from recipes.parts.checkpoint import replacing
    from recipes.parts.predictor import in_words, without_tensors

    form = arguments.format or FORMATS.get(Path(arguments.output or "").suffix, "table")
    size = arguments.batch_size or min(predictor.experiment.evaluation_batch_size, 64)
    inputs, columns, failed = find_inputs(arguments.inputs, predictor.task), [], False
    with replacing(Path(arguments.output)) if arguments.output else nullcontext(sys.stdout.buffer) as file:
        for results in predict_batches(predictor, inputs, size):
            names = (on_a_line(name) for _, name, found in results if form == "table" and isinstance(found, dict))
            width = max(map(len, names), default=0)
            for source, name, found in results:
                if isinstance(found, IngredientsError):
                    failed, text = True, str(found)
                    file.flush()
                    print(text if name in text else f"{on_a_line(name)}: {text}", file=sys.stderr)
                    continue
                if form == "table":
                    text = f"{on_a_line(name):<{width}}  {on_a_line(in_words(found))}\n"
                elif form == "json":
                    text = json.dumps({"input": name} | without_tensors(found)) + "\n"
                else:
                    text = as_csv(name, found, columns, predictor)
                file.write(text.encode(errors="surrogateescape"))  # the name of a file may be any bytes
                if arguments.draw:
                    predictor.draw(source, found).save(drawing_path(Path(arguments.draw), name))
            file.flush()
    return failed


def as_csv(name: str, prediction: dict, columns: list[str], predictor) -> str:
    """A prediction as CSV; the first one determines the columns."""
    from recipes.parts.calling import carried
    from recipes.parts.predictor import without_tensors

    text, rows_of = io.StringIO(), carried(predictor.task, "rows") or (lambda found, classes: [without_tensors(found)])
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    for row in rows_of(prediction, predictor.classes):
        cells = {key: json.dumps(cell) if isinstance(cell, list | dict) else cell for key, cell in row.items()}
        if not columns:
            columns += ["input", *cells]
            writer.writeheader()
        writer.writerow({"input": name} | cells)
    return text.getvalue()


def on_a_line(text: str) -> str:
    return text if text.isprintable() else escaped(text.replace("\n", "\\n"))


def drawing_path(folder: Path, name: str) -> Path:
    """The PNG for an input in the folder: its relative name, with characters that files cannot have as %XX."""
    names = (part.replace("..", "%2E%2E") for part in Path(name).parts if part != Path(name).anchor)
    path = folder.joinpath(*(re.sub(r"[^\w. @()+,%-]", lambda char: f"%{ord(char[0]):02X}", part) for part in names))
    path = path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")
    if path.exists() and Path(name).exists() and path.samefile(name):
        raise IngredientsError(f"--draw {folder} would replace {name}; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def predict_batches(predictor, sources, batch_size: int):
    """Lists of (source, name, prediction or IngredientsError), in order; equal shapes share a forward pass."""
    samples = read_ahead(predictor, sources, batch_size)
    while batch := list(islice(samples, batch_size)):
        found, by_shape = [sample for *_, sample in batch], defaultdict(list)
        for index, sample in enumerate(found):
            if not isinstance(sample, IngredientsError):
                by_shape[sample.shape].append(index)
        for indices in by_shape.values():
            try:
                predictions = predictor([found[index] for index in indices])
            except IngredientsError as error:
                predictions = [error] * len(indices)
            for index, prediction in zip(indices, predictions, strict=True):
                found[index] = prediction
        yield [(source, name, result) for (source, name, _), result in zip(batch, found, strict=True)]


def read_ahead(predictor, sources, count: int):
    """(source, name, preprocessed sample or IngredientsError) of each sample, in order; threads read them."""
    from pantry._fetch import fetch_bytes
    from pantry.images import processors
    from recipes.parts.calling import carried
    from recipes.parts.predictor import Upload

    def read(sources) -> list[tuple]:
        found = []
        for source in sources:
            try:
                if isinstance(source, IngredientsError):
                    raise source
                if "://" in str(source) and not carried(predictor.task, "READS"):
                    source = Upload(source, fetch_bytes(source))
                found += [(source, name, predictor.prepare(sample)) for name, sample in predictor.read(source)]
            except IngredientsError as error:
                found.append((source, str(source), error))
        return found

    waiting, sources = deque(), iter(sources)
    with ThreadPoolExecutor(processors()) as pool:
        while some := list(islice(sources, max(1, count // 16))):  # small images are read faster than handed over
            waiting.append(pool.submit(read, some))
            if len(waiting) > min(count, 16):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def find_inputs(names: list[str], task):
    """What the arguments name, one after the other: paths, addresses, an Upload, IngredientsErrors.

    A task that reads no images is given the arguments, or the lines of standard input, as they are.
    """
    from pantry.images import find_files
    from recipes.parts.calling import carried
    from recipes.parts.predictor import Upload

    for name in names:
        if name == "-" and b"\0" in sys.stdin.buffer.peek(1):  # no text
            yield Upload(name, sys.stdin.buffer.read())
        elif name == "-":
            lines = (line.rstrip(b"\r\n").decode(errors="surrogateescape") for line in sys.stdin.buffer)
            yield from find_inputs(filter(None, lines), task)
        elif carried(task, "READS") or "://" in name:
            yield name
        else:
            is_plain = os.path.exists(name) or not re.search(r"[*?[]", name)
            paths, unreadable = [name] if is_plain else sorted(glob.glob(name)), []
            for path in paths:
                found = find_files(Path(path), onerror=unreadable.append) if os.path.isdir(path) else [path]
                yield from found if found or unreadable else [IngredientsError(f"{path}: there is no image in it")]
            yield from (IngredientsError(f"{error.filename}: cannot be read: {error.strerror}") for error in unreadable)
            yield from () if paths else [IngredientsError(f"{name}: there is no such file or folder")]


def check_inputs(arguments, ingredients: Ingredients) -> str:
    """For --check: how much there is to predict."""
    from recipes.experiment import load_task
    from recipes.parts.calling import carried

    task = load_task(ingredients)
    found = list(find_inputs([name for name in arguments.inputs if name != "-"], task))
    missing = (path for path in found if isinstance(path, str) and not os.path.exists(path) and "://" not in path)
    problems = [str(error) for error in found if isinstance(error, IngredientsError)]
    problems += [f"{path}: there is no such file or folder" for path in missing if not carried(task, "READS")]
    if problems:
        raise IngredientsError("\n".join(problems))
    return f"inputs: {len(found)}"


if __name__ == "__main__":
    main()
