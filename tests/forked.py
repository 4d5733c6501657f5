"""Scripts of a project, in processes forked from one that has imported torch already: a start takes no time."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The server imports these once; the scripts of all projects then find them imported.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torchvision", "torchmetrics", "tqdm", "pytest"])


def run(folder, *scripts, env=None, timeout=600) -> list[tuple[int, str]]:
    """Run scripts of the project in `folder` in one process, one after another; (exit code, what it printed) of each.

    scripts: ("train.py", "--check"), ("recipes.predict", "a.png") or ("pytest", "-q")
    """
    results = SERVER.Queue()
    process = SERVER.Process(target=_run, args=(str(folder), scripts, dict(env or os.environ), results))
    process.start()
    try:
        return [results.get(timeout=timeout) for _ in scripts]
    finally:
        process.terminate()
        process.join()


def run_one(folder, *script, env=None, timeout=600) -> str:
    """What a script printed, which has to succeed."""
    [(code, text)] = run(folder, script, env=env, timeout=timeout)
    assert code == 0, text
    return text


def _run(folder, scripts, environment, results):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, TQDM_DISABLE="1")
    # The project finds its own modules alone, and not those of the template that this process may have.
    ours = {str(ROOT), str(ROOT / "tests"), str(ROOT / "{{cookiecutter.project_name}}")}
    sys.path[:] = [folder, *(path for path in sys.path if path not in ours)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("core", "pantry", "recipes", "tests")]:
        del sys.modules[name]
    import torch

    torch.set_num_threads(1)
    for name, *arguments in scripts:
        # As if the file were not there: a training starts no process that writes a report, which few tests look at.
        sys.modules.pop("recipes.report", None)
        if name != "recipes.report" and "WITH_REPORT" not in environment:
            sys.modules["recipes.report"] = None
        with tempfile.TemporaryFile("w+", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(os.dup(1), "w", buffering=1), os.fdopen(os.dup(2), "w", buffering=1)
            sys.argv, code = [name, *arguments], 0
            try:
                if name.endswith(".py"):
                    runpy.run_path(name, run_name="__main__")
                else:
                    runpy.run_module(name, run_name="__main__", alter_sys=True)
            except SystemExit as error:
                code = error.code or 0
                if isinstance(code, str):  # which Python prints
                    print(code)
                    code = 1
            except BaseException:  # noqa: BLE001 - reported as the traceback that the user would see
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            output.seek(0)
            results.put((int(code), output.read()))
