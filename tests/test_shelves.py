"""core/registry.py and pantry/__init__.py: a shelf is imported when a name on it is asked for."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from core import IngredientsError
from core.arguments import Signature
from core.registry import Registries, source

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
SHELF = "from own_registries import registry\n\n\n@registry.thing.register('lamp')\ndef lamp(watts: int):\n    ...\n"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry whose function lamp is on a shelf that is not yet imported."""
    import types

    (tmp_path / "own_shelf.py").write_text(SHELF)
    monkeypatch.syspath_prepend(tmp_path)
    own = types.ModuleType("own_registries")
    own.registry = Registries()
    monkeypatch.setitem(sys.modules, "own_registries", own)
    own.registry.create("thing").shelve("lamp", "own_shelf")
    yield own.registry
    sys.modules.pop("own_shelf", None)


def test_a_shelf_is_imported_when_its_name_is_asked_for(registry):
    assert "lamp" in registry.thing and registry.thing.names() == ["lamp"]
    with pytest.raises(IngredientsError, match="Did you mean lamp"):
        registry.thing.get("lmap")
    assert "own_shelf" not in sys.modules
    lamp = registry.thing.get("lamp")
    assert str(source(lamp)).endswith("own_shelf.py:4") and Signature(lamp).hints == {"watts": int}
    assert registry.thing.names() == ["lamp"]


def test_a_name_on_a_shelf_is_taken(registry):
    with pytest.raises(IngredientsError, match=r'"lamp" is taken in the registry thing by .*own_shelf.py:4'):
        registry.thing.register("lamp")(lambda: None)
    registry.thing.register("torch")(len)


def test_names_on_two_shelves(registry, tmp_path):
    (tmp_path / "other_shelf.py").write_text(SHELF)
    with pytest.raises(IngredientsError, match=r"other_shelf.py:4: .*taken.*own_shelf.py:4"):
        registry.thing.shelve("lamp", "other_shelf")


def test_a_shelf_that_needs_what_is_gone_is_named(registry, tmp_path):
    (tmp_path / "own_shelf.py").write_text("import no_such_module_here\n")
    with pytest.raises(IngredientsError, match="lamp is in own_shelf, which cannot be imported: No module named"):
        registry.thing.get("lamp")


def test_a_missing_file_of_the_project_is_no_package(registry, tmp_path):
    (tmp_path / "own_shelf.py").write_text("from pantry.no_such import x\n")
    with pytest.raises(IngredientsError, match="pantry/no_such.py is missing, and lamp needs it"):
        registry.thing.get("lamp")


def test_importing_the_pantry_imports_no_shelf():
    code = (
        "import pantry, sys\nfrom core import registry\n"
        "print(sorted(name for name in sys.modules if name.startswith('pantry')))\n"
        "print([registry.loss.get('cross_entropy').__name__, registry.optimizer.get('torch.optim.SGD').__name__])\n"
        "print(sorted(name for name in sys.modules if name.startswith('pantry.')))\n"
        "missing = {k: [n for n in functions if n not in functions]\n"
        "    for k, functions in registry.items()}\nprint(set(map(tuple, missing.values())))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["['pantry']", "['cross_entropy', 'SGD']"] and lines[3] == "{()}", done.stderr
    assert "pantry.losses" in lines[2] and "pantry.augment" not in lines[2]


def test_every_registration_of_the_pantry_is_found_in_its_text():
    """Each shelf registers at the start of a line, where the scan sees it."""
    code = (
        "import importlib, pathlib, pantry\nfrom core import registry\n"
        "def names(functions): return {*functions, *functions.modules}\n"
        "shelved = {kind: names(functions) for kind, functions in registry.items()}\n"
        "for file in sorted(pathlib.Path('pantry').glob('[!_]*.py')): importlib.import_module(f'pantry.{file.stem}')\n"
        "for kind, functions in registry.items():\n"
        "    assert names(functions) == shelved[kind], (kind, names(functions) ^ shelved[kind])\n"
        "    assert all(map(callable, [*functions.values(), *functions.modules.values()])), kind\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_function_says_in_one_line_what_it_does_and_what_it_takes():
    """What `python train.py --list loss` prints."""
    import pantry  # noqa: F401  (registers)
    from core import registry
    from recipes.explain import listing

    wrong, count = [], 0
    for kind, functions in registry.items():
        lines = listing(kind).splitlines()
        for name in functions:
            function = functions.get(name)
            if "." in name or not function.__module__.startswith("pantry."):  # what other tests added or asked for
                continue
            meaning = (inspect.getdoc(function) or "").partition("\n")[0]
            signature = inspect.signature(function)
            parameters = signature.parameters.values()
            untyped = [p for p in parameters if p.annotation is p.empty and p.kind is not p.VAR_POSITIONAL]
            is_listed = any(line.startswith(f"{name}(") for line in lines) and f"    {meaning}" in lines
            if not (15 < len(meaning) <= 116 and meaning[-1] in ".:" and is_listed) or untyped:
                wrong.append(f"{kind} {name}{signature}: {meaning}")
            count += 1
    assert not wrong and count > 40, "\n".join(wrong)
