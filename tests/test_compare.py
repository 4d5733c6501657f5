"""recipes/compare.py: runs side by side, those that are damaged or under way among them."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import compare

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LONG = " ".join(["long"] * 20)
INI = "[training.optimizer]\n@optimizer = sgd\nlearning_rate = {rate}\n[training.model]\nruns = {rate}\n"


@pytest.fixture
def runs(tmp_path):
    """Four runs: `a` is finished, `b` under way with a cut line, `c` crashed before its first epoch, `d` is damaged."""
    for name, rate, best in (("a", 0.1, 2), ("b", 0.02, 1), ("c", 0.1, 0), ("d", 0.1, 0), ("debug", 0.5, 0)):
        (tmp_path / "runs/p" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs/p" / name / "ingredients.ini").write_text(INI.format(rate=rate))
        lines = [{"epoch": e, "train_loss": 1.0 / e, "loss": rate * e, "accuracy": 0.5 + 0.1 * e} for e in (1, 2)]
        lines = [line | {"seconds": 1.5, "map.7": 1.0} for line in lines] if best else []
        log = "".join(f"epoch   {e}/9  train loss 1{'  best' * (e == best)}\n" for e in (1, 2))
        (tmp_path / "runs/p" / name / "log.txt").write_text(log)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        text += '{"epoch": 3, "tr' if name == "b" else ""
        (tmp_path / "runs/p" / name / "metrics.jsonl").write_text(text)
    with open(tmp_path / "runs/p/a/metrics.jsonl", "a") as file:
        file.write('{"split": "testing", "epoch": 2, "loss": 0.3, "f1": NaN, "accuracy": 0.75}\n{"finished": 2}\n')
    (tmp_path / "runs/p/b/ingredients.ini").write_text(
        INI.format(rate=0.02) + "[project]\nnote = " + "long " * 20 + "\n"
    )
    (tmp_path / "runs/p/d/metrics.jsonl").write_text('{"epoch": 1, "train_loss": }\n')
    (tmp_path / "runs/p/a/report.html").write_text("<title>report of a</title>")
    (tmp_path / "ingredients.ini").write_text("[project]\nname = p\n[model.architecture]\nbackbone = small_cnn\n")
    return tmp_path


@pytest.fixture
def ask(runs, monkeypatch, capsys):
    def ask(*argv):
        monkeypatch.chdir(runs)
        monkeypatch.setattr("sys.argv", ["compare", *argv])
        try:
            compare.main()
        except SystemExit as left:
            assert left.code == 1
            return capsys.readouterr().err
        return capsys.readouterr().out

    return ask


def test_what_differs_and_the_metrics_of_the_best_epoch(ask):
    c, d, head, a, b = ask().splitlines()
    assert c == "passed over: runs/p/c: no epoch is complete"
    assert d.startswith("passed over: runs/p/d/metrics.jsonl: damaged (")
    names = "run learning_rate note best_epoch loss accuracy test_loss test_f1 test_accuracy epochs_done seconds"
    assert re.sub("(best|epochs|test) ", r"\1_", head).split() == [*names.split(), "finished"]
    assert a.split() == ["a", "0.1", "-", "2", "0.2000", "0.7000*", "0.3000", "-", "0.7500", "2", "3.0", "yes"]
    assert b.split() == f"b 0.02 {'long ' * 11}long… 1 0.0200* 0.6000 - - - 2 3.0 no".split()


def test_sorts_best_first_and_writes_all_of_it(ask):
    def order(*argv):
        return [line[0] for line in ask("runs/p/a", "runs/p/b", *argv).splitlines()[1:]]

    assert order() == order("--sort", "accuracy") == ["a", "b"]
    assert order("--sort", "loss") == order("--sort", "learning_rate") == ["b", "a"]
    assert order("--sort", "test accuracy") == ["a", "b"]  # which b lacks
    assert "no such column. Did you mean accuracy?" in ask("--sort", "acuracy")
    ask("--csv", "runs.csv")
    rows = {row["run"]: row for row in csv.DictReader(Path("runs.csv").read_text().splitlines())}
    assert (rows["a"]["accuracy"], rows["b"]["note"], rows["b"]["test loss"]) == ("0.7", LONG, "")


def test_what_is_not_there_is_told(ask):
    assert "no run to compare in nowhere" in ask("nowhere")
    assert "no run to compare in runs/q" in ask("--project.name", "q")
    assert "nowhere/runs.html: cannot be written (No such file or directory)" in ask("--html", "nowhere/runs.html")


def test_it_needs_no_torch():
    code = "import sys, recipes.compare; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    project = Path(compare.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=project).returncode == 0


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_the_page_sorts_and_links_in_a_browser(ask, runs):
    playwright = pytest.importorskip("playwright.sync_api")
    (runs / "runs/p/b/ingredients.ini").write_text(INI.format(rate=0.02) + "[project]\nnote = <b> & y\n")
    ask("--html", "runs/it.html")
    with playwright.sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or errors.append(request.url))
        page.goto(f"file://{runs}/runs/it.html")
        names = page.locator("tbody td:first-child")
        assert names.all_inner_texts() == ["a", "b"] and "<b> & y" in page.inner_text("tbody")
        for head, wanted in (("loss", "ba"), ("loss", "ab"), ("accuracy", "ab"), ("note", "ba")):
            page.locator("th", has=page.locator(f"text=/^{head}$/")).or_(
                page.locator(f"th >> text=/^{head}$/")
            ).first.click()
            assert "".join(names.all_inner_texts()) == wanted, head
        page.hover("tbody tr:first-child")
        assert page.locator("svg.one .shown").count() == 3  # train_loss, loss, accuracy
        page.click("text=/^a$/")
        assert page.title() == "report of a" and not errors
