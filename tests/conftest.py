"""The template as git has it, without what lies about in a folder that was worked in; and the project's fixtures."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is shared can pause any single example for longer than hypothesis allows by default.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "{{cookiecutter.project_name}}"

# The project's own fixtures, for the tests here that train: tiny data, and the shipped ingredients turned to it.
spec = importlib.util.spec_from_file_location("project_conftest", PROJECT / "tests" / "conftest.py")
project_conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(project_conftest)
names = ("archive", "overrides", "read", "train", "own", "one_thread", "ctrl_c_arrives", "without_report")
globals().update({name: getattr(project_conftest, name) for name in names})


@pytest.fixture(scope="session")
def tracked():
    """Paths of all files under version control, as git writes them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, f"the tests bake what git tracks, and git says: {listed.stderr}"
    return sorted(name for name in listed.stdout.split("\0") if name)


@pytest.fixture(scope="session")
def template(tracked, tmp_path_factory):
    """A copy of the tracked files, to bake from."""
    copy = tmp_path_factory.mktemp("template") / "autotrain-template"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def user_env(tmp_path_factory):
    """The environment of a user's shell: nothing of this pytest run or of make in it, no cookiecutter settings."""
    settings = tmp_path_factory.mktemp("user")
    config = settings / "config.yaml"
    config.write_text(f'cookiecutters_dir: "{settings}/cookiecutters"\nreplay_dir: "{settings}/replay"\n')
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "MAKE", "MFLAGS"))}
    return env | {"COOKIECUTTER_CONFIG": str(config)}
