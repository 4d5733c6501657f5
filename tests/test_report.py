"""recipes/report.py: what a report holds, that a run writes it after each epoch, and how it looks in a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from core import IngredientsError
from PIL import Image
from recipes import report

PROJECT = Path(report.__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
BAD = "<script>alert('x')</script>"
CLASSES = [BAD, 'qu"ote & ${x}', "größe|`*[5]*", "日本", "e-10", "e-9"]
INI = """[project]
name = "<b>p</b>"
[model.architecture]
backbone = small_cnn
[training.scheme]
epochs = 50
seed = 0
[training.model]
runs = runs
"""


def line(epoch: int) -> str:
    metrics = {"loss": 2 / epoch, "accuracy": 1 - 1 / epoch, "mae": 3.0 * epoch, "map.7": 0.5}
    return json.dumps({"epoch": epoch, "train_loss": 1 / epoch, **metrics, "learning_rate": 0.1, "seconds": 1.5}) + "\n"


@pytest.fixture
def folder(tmp_path):
    """A finished run of 50 epochs, with the names that a report has to escape."""
    folder = tmp_path / "runs" / "p" / "2026-01-31_12-00-00"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "ingredients.ini").write_text(INI)
    (folder / "metrics.jsonl").write_text(
        "".join(map(line, range(1, 51))) + '{"split": "testing", "epoch": 7, "accuracy": 0.75}\n{"finished": 50}\n'
    )
    (folder / "log.txt").write_text(f"10 training samples, {BAD}\nepoch   7/50  train loss 1  best\n")
    (folder / "defaults.json").write_text('{"training.scheme.epochs": 10, "training.scheme.seed": 0}')
    git = {"commit": "1234abcd", "changes": f" M {BAD}"}
    packages = {"torch": "2.9", "numpy": "2.1"}
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "git": git, "packages": packages}))
    table = {name: {"precision": 0.9 - at / 10, "f1": at / 10, "support": at * 7} for at, name in enumerate(CLASSES)}
    counts = [[10 if row == column else row * column for column in range(6)] for row in range(6)]
    bins = [{"low": 0.5, "high": 1.0, "count": 9, "confidence": 0.7, "accuracy": 0.6}]
    found = {
        "split": "validation",
        "samples": 60,
        "metrics": {"accuracy": 0.8571, "map.7": 0.5},
        "intervals": {"accuracy": [0.8, 0.9]},
        "table": table,
        "confusion": {"classes": CLASSES, "counts": counts},
        "calibration": {"ece": 0.125, "bins": bins},
        "curves": {
            f"{name}\udcff": {"threshold": [0.9, 0.1], "precision": [1.0, 0.5], "recall": [0.5, 1.0]}
            for name in CLASSES
        },
        "worst": [{"sample": f"{BAD}/\udcff1.png", "index": 1, "truth": BAD, "loss": 4.5, "picture": "w.png"}],
        "images_per_second": {"model": 1234.5, "all": 1000.0},
    }
    (folder / "evaluation" / "validation.json").write_text(json.dumps(found))
    for name in ("batch.png", "predictions.png", "evaluation/w.png"):
        Image.effect_noise((640, 320), 60).save(folder / name)
    return folder


def test_a_report_holds_all_of_it_and_escapes_names(folder):
    started = time.process_time()
    report.render(folder)
    page, card = ((folder / name).read_text() for name in ("report.html", "MODEL_CARD.md"))
    assert time.process_time() - started < 5 and len(page) < 5_000_000
    for text in (page, card):
        assert BAD not in text and "<b>p</b>" not in text and "&lt;script&gt;alert(&#39;x&#39;)" in text
        for part in ("0.8000 to 0.9000", "0.1250", "1234abcd", "größe", "training.scheme.epochs"):
            assert part in text, part
    assert (
        "日本" in page
        and page.count("data:image/webp") == 3
        and "learning rate" in page
        and "finished after epoch 50" in page
    )
    assert re.search(r'class="changed"><td>training.scheme.epochs</td><td>50</td><td class="faint">10<', page)
    assert not re.search(r'class="changed"><td>training.scheme.seed', page)
    assert r"größe\|\`\*\[5\]\*" in card and "| accuracy | testing | 0.7500 | |" in card
    assert not list(folder.glob("*.part"))


def test_a_run_that_crashed_or_is_old_is_reported_as_far_as_it_came(folder):
    for name in ("defaults.json", "environment.json", "log.txt", "evaluation", "batch.png"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(True)
    (folder / "metrics.jsonl").write_text(lines[0].replace('"learning_rate": 0.1, ', "") + '{"epoch": 2, "tr')
    report.render(folder)
    page = (folder / "report.html").read_text()
    assert "ended after epoch 1, unfinished" in page and "--resume runs/p/2026" in page and "learning rate" not in page
    report.render(folder, is_running=True)
    assert "in training" in (folder / "report.html").read_text()


def test_a_package_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(IngredientsError, match="the package matplotlib: python -m pip install matplotlib"):
        report.render(folder)


def wait_for(path: Path, text: str) -> str:
    end = time.monotonic() + 60
    while not (path.is_file() and text in path.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return path.read_text()


def test_the_watcher_outlives_signals_and_ends_with_the_run(folder):
    (folder / "metrics.jsonl").write_text(line(1))
    command = [sys.executable, "-m", "recipes.report", "--watch", folder, "--ingredients", folder / "ingredients.ini"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as watcher:
        watcher.stdin.write(b".")
        wait_for(folder / "report.html", "in training, 1 ")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            watcher.send_signal(number)
        (folder / "metrics.jsonl").write_text(line(1) + line(2))
        _, errors = watcher.communicate(timeout=60)  # closes its input
    assert (watcher.returncode, errors) == (0, b"")
    assert "ended after epoch 2" in (folder / "report.html").read_text()


@pytest.fixture
def training(read, tmp_path):
    """training(*arguments, **environment) -> a process of `train.py tiny.ini`, not started, and its results."""
    (tmp_path / "tiny.ini").write_text(str(read({"training.scheme.epochs": "3", "training.model.report": "True"})))

    def training(*scripts, **environment):
        places = ["--training.model.runs", f"{tmp_path}/runs", "--training.model.save_name", f"{tmp_path}/m.pth"]
        scripts = [("train.py", f"{tmp_path}/tiny.ini", *places, *arguments) for arguments in scripts]
        results = forked.SERVER.Queue()
        given = str(PROJECT), scripts, os.environ | {"WITH_REPORT": "1"} | environment, results
        return forked.SERVER.Process(target=forked._run, args=given), results

    return training


def test_a_run_writes_it_and_debugging_does_not(training, tmp_path):
    process, results = training(
        ("--testing.debug", "True"),
        (),
        ("--resume", "--training.scheme.epochs", "4"),
        ("--training.model.report", "False"),
    )
    process.start()
    texts = [results.get(timeout=100) for _ in range(4)]
    process.join()
    assert [code for code, _ in texts] == [0] * 4, texts
    assert ["report:" in text for _, text in texts] == [False, True, True, False]
    (page,) = tmp_path.rglob("report.html")
    assert "finished after epoch 4" in page.read_text() and "Evaluation: validation, 12 samples" in page.read_text()
    assert "samples_per_second, " not in page.read_text(), "how fast it was is no metric"
    assert "training.parallel.timeout" in json.loads((page.parent / "defaults.json").read_text())
    assert "95 % interval" in (page.parent / "MODEL_CARD.md").read_text()
    defaults = json.loads((page.parent / "defaults.json").read_text())
    assert (defaults["training.scheme.epochs"], defaults["training.optimizer.momentum"]) == (10, 0.9)
    lines = (page.parent / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line).get("learning_rate") for line in lines]
    assert rates[0] > rates[2] > 0.0


def test_a_run_goes_on_without_the_packages(training, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no', name='matplotlib')")
    process, results = training((), PYTHONPATH=str(tmp_path))
    process.start()
    code, text = results.get(timeout=100)
    process.join()
    assert code == 0 and "no report: a report needs the package matplotlib: python -m pip install matplotlib" in text


def test_a_killed_run_leaves_a_report_of_all_its_epochs(training, tmp_path):
    (tmp_path / "custom_functions.py").write_text(
        "import os\nfrom core import registry\ncalls = []\n\n\n@registry.metric.register('fatal')\ndef fatal():\n"
        "    def metric(outputs, targets):\n        calls.append(1)\n"
        "        return os.kill(os.getpid(), 9) if len(calls) == 3 and 'FATAL' in os.environ else 0.0\n\n"
        "    return metric\n"
    )
    process, _ = training(("--add", "validation.metrics.fatal.@metric=fatal"), FATAL="1")
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert "ended after epoch 2, unfinished" in wait_for(folder / "report.html", "ended after")
    [(code, text)] = forked.run(PROJECT, ("recipes.report", str(folder)))
    assert code == 0 and "Evaluation: validation, 12 samples" in (folder / "report.html").read_text(), text


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_a_browser_shows_it_without_a_network(folder):
    playwright = pytest.importorskip("playwright.sync_api")
    report.render(folder)
    with playwright.sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        told = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: told.append(request.url))
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(f"file://{folder}/report.html")
        assert told == [f"file://{folder}/report.html"]
        widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
        assert len(widths) == 3 and all(widths)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("svg").count() == 7  # loss, accuracy, mae, rate, seconds; calibration, precision
        names = page.locator(".sortable tbody td:first-child")
        assert names.all_inner_texts() == CLASSES
        page.click(".sortable button >> text=precision")
        assert names.all_inner_texts() == CLASSES  # the highest first
        page.click(".sortable button >> text=precision")
        assert names.all_inner_texts() == CLASSES[::-1]
        page.click(".sortable button >> text=class")
        assert names.all_inner_texts().index("e-9") < names.all_inner_texts().index("e-10")
        assert told == [f"file://{folder}/report.html"]
