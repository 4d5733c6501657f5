"""Sweeps: what [sweep] may say, what is proposed and recorded, and that killed processes lose nothing."""

import csv
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from core import IngredientsError, locate
from recipes.parts.command import Command
from recipes.parts.records import recorded
from recipes.parts.space import propose
from recipes.parts.study import JournalLock, Worker
from recipes.settings import read_ingredients
from recipes.sweep import train_in_processes, write_results

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SHORT = {"training.scheme.epochs": "2", "training.schedule.@schedule": "constant", "training.scheme.best": "loss"}
SPACE = {"sweep.training.optimizer.learning_rate": "log 1e-3 1e-1", "sweep.training.augment.pixels": "int 0 2"}


@pytest.fixture
def begin(read, one_thread):
    """begin(space, **study) -> an open worker of sweep.ini, which is written anew if there is something to write."""

    opened = []

    def begin(space=None, given=None, **study):
        file = Path("sweep.ini")
        if space is not None:
            file.write_text(str(read(SHORT | space | {f"sweep.study.{key}": value for key, value in study.items()})))
        given = given or {}
        ingredients = read_ingredients(file, [(*item, True) for item in given.items()])
        opened.append(Worker(file, given, ingredients))
        opened[-1].open()
        return opened[-1]

    yield begin
    for worker in opened:
        if worker.held:
            worker.held.close()


def go_on(worker):
    while trial := worker.next_trial():
        worker.run(trial)
    return worker.study.trials


def proposals(worker):
    """What is proposed if the trials' values are their numbers."""
    while trial := worker.next_trial():
        point = {path: propose(trial, path, values) for path, values in worker.space.items()}
        worker.study.tell(trial, trial.number)
        yield point


# ------------------------------------------------------------------------------------------------------- what it varies

WRONG = {  # what [sweep] says -> what is wrong with it
    ("training.optimizer.learning_rat", "log 1e-3 1"): "0.001: no such argument. Did you mean learning_rate?",
    ("training.optimizer.learning_rate", "log 0 1"): "low",
    ("training.optimizer.momentum", "float -0.5 1"): r"-0.5: must be in \[0, inf\)",
    ("training.optimizer.weight_decay", "float 1 0"): "low",
    ("training.optimizer.optimizer", "choice sgd adamm"): 'has no "adamm". Did you mean adam',
    ("training.scheme.epochs", "often"): "expected log LOW HIGH",
    ("training.scheme.batch_size", "int 8.5 16"): "expected log LOW HIGH",
    ("training.scheme.precision", "choice bf16 int8"): 'int8: expected "float32"',
    ("training.scheme.seed", "int 0 5"): "a sweep sets this itself",
    ("training.scheem.epochs", "int 1 5"): r"no section \[training.scheem\]",
    ("project.meta.n_clases", "int 1 5"): "nothing refers to it. Did you mean n_classes",
}


def test_all_that_is_wrong_is_reported_at_once_with_its_line(read):
    Path("sweep.ini").write_text(str(read({f"sweep.{path}": text for path, text in WRONG})))
    ingredients = read_ingredients("sweep.ini")
    with pytest.raises(IngredientsError) as error:
        Worker(Path("sweep.ini"), {}, ingredients)
    told = str(locate(error.value, ingredients))
    for (path, raw), message in WRONG.items():
        assert re.search(rf"sweep.ini:\d+: sweep.{path} = {raw}\n    .*{message}", told), told


def test_values_are_as_the_file_would_have_them(begin):
    lists = {"sweep.training.preprocess.size": "choice [16, 16] [8, 8]", "sweep.training.scheme.ema": "choice 0 0.9"}
    worker = begin(lists | {"sweep.training.scheme.batch_size": "int 8 16 8"}, sampler="grid")
    assert worker.trials == 8
    sizes = {tuple(point.values()) for point in proposals(worker)}
    assert len(sizes) == 8 and ("[8, 8]", "0.9", "16") in sizes


def test_another_function_takes_the_arguments_that_vary_and_its_own_defaults(begin):
    space = {
        "sweep.training.optimizer.learning_rate": "grid 0.5",
        "sweep.training.optimizer.optimizer": "grid adamw sgd",
    }
    points = [[(*item, True) for item in point.items()] for point in proposals(begin(space))]
    first, second = (read_ingredients("sweep.ini", point).training.optimizer for point in points)
    assert first == {"@optimizer": "adamw", "learning_rate": 0.5} and second["momentum"] == 0.9


@pytest.mark.parametrize("sampler, pruner", [("random", "hyperband"), ("tpe", "nop")])
def test_a_sampler_proposes_the_same_after_each_trial_in_a_new_process(begin, sampler, pruner):
    study = {"sampler": sampler, "pruner": pruner, "trials": "6"}
    unbroken = list(proposals(begin(SPACE, name="a", **study)))
    begin(SPACE, name="b", **study)
    assert [next(proposals(begin())) for _ in range(6)] == unbroken and len({str(point) for point in unbroken}) == 6


@pytest.mark.parametrize(
    "study, message",
    [
        ({"sampler": "tpee"}, "sweep.study.sampler = tpee\n    there is no such sampler. Did you mean tpe"),
        ({"sampler_options": '{"a": 1}'}, "unexpected keyword argument 'a'"),
        ({"pruner": "sharp"}, "there is no such pruner"),
        ({"sampler": "grid"}, "learning_rate = log 1e-3 1e-1\n    a grid needs values"),
        ({"storage": "mysql:/nowhere"}, "sweep.study.storage = "),
        ({"name": "a/b"}, "no slash"),
    ],
)
def test_a_study_that_cannot_be_is_refused(begin, study, message):
    with pytest.raises(IngredientsError, match=re.escape(message)):
        try:
            begin(SPACE, **study)
        except IngredientsError as error:
            raise locate(error, read_ingredients("sweep.ini")) from None


# ------------------------------------------------------------------------------------------------------------- trials


def test_a_sweep_from_end_to_end(begin, own, train, capsys):
    @own.loss.register("touchy")
    def touchy(fails: bool = False):
        def loss(outputs, targets):
            if fails:
                raise KeyError("by chance")
            return torch.nn.functional.cross_entropy(outputs, targets)

        import torch

        return loss

    space = {"training.loss.@loss": "touchy", "sweep.training.loss.fails": "grid False True"}
    worker = begin(space | {"sweep.training.optimizer.learning_rate": "grid 0.01 0.1"}, seeds="2")
    trials = go_on(worker)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert "touchy" not in trials[2].user_attrs["error"] and "by chance" in trials[2].user_attrs["error"]
    capsys.readouterr()
    write_results(worker)
    printed = capsys.readouterr().out
    [best, other, *failed] = csv.DictReader((worker.folder / "results.csv").read_text().splitlines())
    assert float(best["loss"]) < float(other["loss"]) and float(best["deviation"]) > 0 and len(failed) == 2
    assert re.search(r"\n0 +best |\n1 +best ", printed) and "'by chance'" in printed and "4 trials" in printed
    folders = [worker.folder / f"{int(best['trial']):04}-seed-{seed}" for seed in (0, 1)]
    lows = [min(line["loss"] for line in recorded(folder) if "train_loss" in line) for folder in folders]
    assert sum(lows) / 2 == pytest.approx(float(best["loss"]))
    again = train_file(worker.folder / "best.ini")
    assert [line.get("loss") for line in recorded(again)] == [line.get("loss") for line in recorded(folders[0])]
    text = (worker.folder / "best.ini").read_text()
    assert f"learning_rate = {best['training.optimizer.learning_rate']}" in text
    look_at(worker.folder / "results.html", rows=4)


def train_file(file):
    from recipes.settings import call_functions
    from recipes.train import train

    ingredients = read_ingredients(file)
    return train(ingredients, call_functions(ingredients))


def look_at(file, rows):
    """Open the page in a browser, if there is one: it has no error, and its parts are drawn."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        return
    with playwright.sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if request.url[:5] == "http" else None)
        page.goto(file.absolute().as_uri())
        assert page.locator("tbody tr").count() == rows and page.locator("#parallel polyline").count() == 2
        page.locator("th", has_text="trial").click()
        assert page.locator("tbody tr").first.locator("td").first.text_content() == "0"
        assert page.locator("#history circle").count() == 2 and not errors


def test_a_bad_trial_is_pruned_and_its_run_ends_cleanly(begin):
    worker = begin(SPACE, trials="1", pruner="threshold", pruner_options='{"upper": 0.001}')
    [trial] = go_on(worker)
    assert trial.state.name == "PRUNED" and trial.last_step == 1
    [folder] = worker.folder.glob("0000-*")
    assert (folder / "checkpoints/best.pt").exists() and len(recorded(folder)) == 1
    shutil.rmtree(worker.folder / "locks")
    write_results(worker)


def test_a_trial_that_is_interrupted_is_continued_and_nothing_else_changes(begin, monkeypatch):
    unbroken = go_on(begin(SPACE, trials="3", name="a"))
    worker, report = begin(SPACE, trials="3", name="b"), optuna.Trial.report
    worker.run(worker.next_trial())
    trial = worker.next_trial()

    def die(self, value, step):
        report(self, value, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Trial, "report", die)
        worker.run(trial)
    other = begin()
    beside = other.next_trial()
    assert beside.number == 2  # the second one is still locked
    worker.held.close()
    other.study.tell(beside, state=optuna.trial.TrialState.FAIL)
    third = begin()
    again = third.next_trial()
    assert again.number == 1
    third.run(again)
    broken = begin().study.trials
    for one, two in zip(unbroken[:2], broken[:2], strict=True):
        assert (one.params, one.values, one.intermediate_values) == (two.params, two.values, two.intermediate_values)
    assert "resume" in next(worker.folder.glob("0001-*/log.txt")).read_text()


def test_who_joins_has_the_same_settings_but_may_want_more_trials(begin):
    worker = begin(SPACE, trials="2")
    assert begin(given={"sweep.study.trials": "3"}).trials == 3
    with pytest.raises(IngredientsError, match=r"began with other settings:\n    training.scheme.epochs: 2 -> 3"):
        begin(given={"training.scheme.epochs": "3"})
    (worker.folder / "ingredients.ini").write_text("")  # what is copied is for reading alone
    Path("sweep.ini").write_text("# a remark\n" + Path("sweep.ini").read_text())
    assert "learning_rate" in (begin().folder / "ingredients.ini").read_text()


def test_a_database_keeps_the_trials_and_no_run_folder_says_where_it_is(begin):
    worker = begin(SPACE, trials="1", storage="sqlite:///study.db")
    assert [trial.state.name for trial in go_on(worker)] == ["COMPLETE"] and not list(worker.folder.glob("journal*"))
    texts = [file.read_text() for file in worker.folder.glob("0000-*/ingredients.ini")] + [worker.ini_of(0)]
    assert len(texts) == 2 and not any("study.db" in text for text in texts)


def test_half_a_line_of_a_journal_is_cut(begin):
    worker = begin(SPACE, trials="2")
    worker.study.tell(worker.next_trial(), 1.0)
    with open(worker.folder / "journal.log", "a") as journal:
        journal.write('{"op_code": 4, "wor')
    worker.study.tell(worker.next_trial(), 2.0)
    assert [trial.value for trial in begin().study.trials] == [1.0, 2.0]
    lock = JournalLock(worker.folder / "journal.log")
    assert lock.acquire()
    lock.release()


def test_a_trial_that_takes_its_process_down_is_recorded_and_others_go_on(begin, own, capfd):
    @own.loss.register("deadly")
    def deadly(dies: bool = False):
        def loss(outputs, targets):
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return outputs.square().mean()

        return loss

    space = {"training.loss.@loss": "deadly", "sweep.training.loss.dies": "grid True False"}
    worker = begin(space)
    with pytest.raises(SystemExit) as ended:
        train_in_processes(worker, Command("", []), only_results=False)
    assert ended.value.code == 0
    first, second = begin().study.trials
    assert first.state.name == "FAIL" and "signal 9" in first.user_attrs["error"] and second.state.name == "COMPLETE"
    assert "2 trials" in capfd.readouterr().out


def test_ctrl_c_saves_and_the_same_command_continues(begin, capfd):
    def sweep(worker):
        os.setpgid(0, 0)
        train_in_processes(worker, Command("", []), only_results=False)

    worker = begin(SPACE | {"training.scheme.epochs": "1000"}, trials="1")
    process = multiprocessing.get_context("fork").Process(target=sweep, args=(worker,))
    process.start()
    wait_for(lambda: worker.study.trials and worker.study.trials[0].last_step)
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and capfd.readouterr().out == "stopped; the same command continues the sweep\n"
    assert worker.study.trials[0].state.name == "RUNNING" and begin().next_trial().number == 0


# ------------------------------------------------------------------------------------------------------- killed often


def start(*arguments, **settings):
    """A worker as a process group of its own; its folder is the current one, as is its sweep.ini."""
    command = [sys.executable, "-m", "recipes.sweep", "sweep.ini", *arguments]
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, process_group=0, text=True, **settings)


def trains(worker, study) -> bool:
    """Whether a trial runs in the child of that process."""
    running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    files = [Path("/proc", trial.user_attrs.get("process", ":0").split(":")[1], "status") for trial in running]
    return any(f"PPid:\t{worker.pid}\n" in file.read_text() for file in files if file.exists())


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("storage", ["journal", "sqlite", "postgresql"])
def test_two_workers_that_are_killed_often_lose_no_trial_and_count_none_twice(begin, storage):
    """KILLS=100 for more; POSTGRESQL=URL names a database for the last one."""
    url = {"journal": None, "sqlite": "sqlite:///study.db", "postgresql": os.environ.get("POSTGRESQL")}[storage]
    if storage == "postgresql" and not url:
        pytest.skip("POSTGRESQL is not set")
    study = {"trials": "1000", "seeds": "2", "pruner": "nop"} | ({"storage": url} if url else {})
    study = begin(SPACE | {"training.scheme.epochs": "20"}, **study).study
    chance, workers = random.Random(0), [start(), start()]
    for _ in range(kills := int(os.environ.get("KILLS", 20))):
        number = chance.randrange(2)
        wait_for(lambda: trains(workers[number], study), 300)  # noqa: B023
        time.sleep(chance.uniform(0, 6))
        chance.choice([os.kill, os.killpg])(workers[number].pid, signal.SIGKILL)  # the command, or all of it
        workers[number].wait()
        workers[number] = start()
    for worker in workers:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    trials = len(study.trials) + 2
    assert start("--sweep.study.trials", str(trials)).wait() == 0
    worker = begin()
    done = worker.study.trials
    resumed = sum("resume" in file.read_text() for file in worker.folder.glob("*/log.txt"))
    print(f"{storage}: {kills} kills, {resumed} trainings continued, {len(done)} trials")
    assert [trial.number for trial in done] == list(range(trials)) and {trial.state.name for trial in done} == {
        "COMPLETE"
    }
    if storage == "journal":
        journal = (worker.folder / "journal.log").read_text()
        finished = re.findall(r'"op_code":6,.*?"trial_id":(\d+),"state":1', journal)
        assert sorted(map(int, finished)) == list(range(trials))
    for trial in done:
        folders = sorted(worker.folder.glob(f"{trial.number:04}-seed-*"))
        assert [recorded(folder)[-1]["finished"] for folder in folders] == [20, 20]
        lows = [min(line["loss"] for line in recorded(folder) if "train_loss" in line) for folder in folders]
        assert sum(lows) / 2 == pytest.approx(trial.value)
    for number in (0, trials - 1):
        Path("again.ini").write_text(worker.ini_of(number))
        losses, again = (
            [line.get("loss") for line in recorded(folder)]
            for folder in (worker.folder / f"{number:04}-seed-0", train_file("again.ini"))
        )
        assert losses == again
