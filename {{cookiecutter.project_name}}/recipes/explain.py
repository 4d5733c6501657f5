"""What --help, --print, --explain and --list answer: the settings there are, their values and origins, functions."""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

from core.arguments import describe, signature_of
from core.errors import IngredientsError, escaped, suggest
from core.ingredients import Ingredients, call_key
from core.registry import registry, source
from core.values import as_written
from recipes.parts.origins import resolved_text, settings, users
from recipes.settings import FREE, SECTIONS, declared_paths, import_functions, kind_of, read_ingredients


def answer(option: str, arguments, overrides=(), checks=()) -> int:
    """Print the answer to an option; returns the exit code."""
    if option == "list":
        import_functions(Path(arguments.ingredients).parent)
        print(listing(arguments.list))
        return 0
    ingredients = read_ingredients(arguments.ingredients, overrides)
    if option == "print":  # what a terminal would obey is escaped; all else stays as the file has it
        text = resolved_text(ingredients).rstrip("\n")
        print(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], text))
    else:
        print(escaped(explain(ingredients, arguments.explain)))
    return 0


def all_settings() -> str:
    """The declared settings, for --help: name, default, type, meaning."""
    lines = ["settings, each also as --section.key VALUE:"]
    for path, kind in SECTIONS.items():
        calls = f"  @{kind} = name of a function (--list {kind}), and its arguments" if isinstance(kind, str) else ""
        lines.append(f"\n[{path}]{calls}")
        for item in () if calls else fields(kind):
            default = "" if item.default is MISSING else f" = {item.default}"
            words = describe(signature_of(kind).hints[item.name])
            lines.append(f"  {item.name}{default}  ({words})\n      {item.metadata.get('doc', '')}")
    return "\n".join(lines)


def listing(name: str) -> str:
    """The functions of a registry: arguments with defaults, one line of meaning, file and line."""
    if not name:
        return "\n".join(sorted(registry))
    if name not in registry:
        raise IngredientsError(f"--list {name}: there is no such registry. {suggest(name, registry)}")
    functions, lines = registry[name], []
    for key in sorted(functions):
        function = functions.get(key)
        arguments = ", ".join(map(str, inspect.signature(function).parameters.values()))
        meaning = (inspect.getdoc(function) or "no docstring").partition("\n")[0]
        lines += [f"{key}({arguments})", f"    {meaning}", f"    {source(function)}"]
    for key in functions.names():
        if key.endswith(".NAME"):
            lines += [key, f"    see the documentation of {key[:-5]}"]
    return "\n".join(lines)


def explain(ingredients: Ingredients, path: str, declared: dict = SECTIONS) -> str:
    """Value, kind, origin, users and reader of the setting at a dotted path. IngredientsError where there is none."""
    section, _, key = path.rpartition(".")
    place, caller = ingredients.where(path) if path else None, ingredients.at(section)
    default, lines = MISSING, []
    for item in fields(kind_of(section, declared)) if isinstance(kind_of(section, declared), type) else ():
        if item.name == key:
            default = item.default
            lines.append(f"    meaning: {item.metadata.get('doc', '')}")
            lines.append(f"    read by: {', '.join(_readers(kind_of(section, declared), key)) or 'nothing'}")
    if isinstance(caller, Ingredients) and (called := call_key(caller)) and caller[called] in registry[called[1:]]:
        function = registry[called[1:]].get(caller[called])
        parameter = inspect.signature(function).parameters.get(key)
        default = MISSING if parameter is None or parameter.default is parameter.empty else parameter.default
        lines.append(f"    goes to: {caller[called]} ({source(function)})")
    if place is not None:
        value, raw = ingredients.at(path), ingredients.written(path)
        is_section = isinstance(value, Ingredients)
        lines = [
            f"{path} = {'[section]' if is_section else as_written(value)}",
            f"    kind: {'a section' if is_section else describe(type(value))}",
            f"    from: {place}" + (f", written {raw}" if "$" in raw else ""),
            *lines,
        ]
    elif default is not MISSING:
        value = list(default) if isinstance(default, tuple) else default
        lines = [f"{path} = {as_written(value)}", "    from: its default; the file does not set it", *lines]
    else:
        names = [*(f"{section}.{key}" for section, key in settings(ingredients)), *declared_paths(declared)]
        raise IngredientsError(f"--explain {path}: there is no such setting. {suggest(path, names)}")
    if path.startswith(FREE + ".") and (readers := _lines_with(f'"{path}"')):
        lines.append(f"    read by: {', '.join(readers)}")
    used_in = [f"    used in: {user} ({ingredients.where(user)})" for user in users(ingredients).get(path, ())]
    return "\n".join(lines + used_in)


def _readers(kind: type, key: str) -> list[str]:
    """Lines of the recipes that read a field of a dataclass from a variable or attribute of its name."""
    name = kind.__name__
    return _lines_with(rf"\b{name.lower()}\.{key}\b", Path(inspect.getfile(kind)))


def _lines_with(pattern: str, beside: Path = Path(__file__)) -> list[str]:
    return [
        f"{file.relative_to(beside.parent.parent)}:{number}"
        for file in sorted(beside.parent.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
