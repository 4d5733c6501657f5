"""`${...}`: each reference finds its target once, in an order in which every target is ready before its user."""

import os

from .errors import Problem, suggest
from .ingredients import Entry, SectionCopy
from .values import BROKEN, MAX_DEPTH, Reference, Text, as_written, children

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound


class _Scope:
    """The flat sections, what is looked up in them often, and what may still be spent."""

    def __init__(self, sections: dict, problems: list):
        self.sections = sections
        self.problems = problems
        self.budget = MAX_EXPANSION
        self.inside = {}  # section -> its subsections, one level
        for path in sections:
            self.inside.setdefault(path.rpartition(".")[0], []).append(path)


def resolve_references(sections: dict, problems: list) -> None:
    """Put the values in place of the references, in place; add what is wrong to `problems`."""
    scope = None
    for section in list(sections.values()):
        for entry in section.entries.values():
            if entry.references and entry.state == Entry.NEW:
                scope = scope or _Scope(sections, problems)
                _settle(scope, entry)


def _settle(scope: _Scope, entry: Entry) -> None:
    """Depth first, with a stack of our own: chains may be longer than Python's."""
    stack = [(entry, _targets(scope, entry))]
    while stack:
        entry, needed = stack[-1]
        target = next(needed, None) if entry.state == Entry.OPEN else None
        if target is None:
            if entry.state == Entry.OPEN:
                _fill(scope, entry)
            stack.pop()
            if entry.state == Entry.BROKEN:
                entry.value = BROKEN
                if stack:
                    stack[-1][0].state = Entry.BROKEN  # what is reported is the problem of the first
        elif target.state == Entry.NEW:
            stack.append((target, _targets(scope, target)))
        elif target.state == Entry.OPEN:
            _report_cycle(scope, [held for held, _ in stack], target)
        elif target.state == Entry.BROKEN:
            entry.state = Entry.BROKEN


def _targets(scope: _Scope, entry: Entry):
    """Find what the entry refers to; an iterator over the entries to settle before it."""
    entry.state = Entry.OPEN
    entry.targets = {}
    for reference in entry.references:
        message = None
        if reference.env is not None:
            found, message = _environment(reference)
        else:
            found = _find(scope.sections, reference.parts, entry)
            if found is None:
                message = _not_found(scope, reference.parts)
        if message:
            scope.problems.append(Problem(entry.place, entry.path, entry.raw, message))
            entry.state = Entry.BROKEN
        entry.targets[reference] = found
    return _needed(scope, list(entry.targets.values()))


def _needed(scope: _Scope, targets: list):
    for target in targets:
        if isinstance(target, str):
            yield from (found for found in _entries_within(scope, target) if found.references)
        elif target is not None and target.references:
            yield target


def _entries_within(scope: _Scope, path: str):
    """Every entry of a section and of the sections in it."""
    todo = [path]
    while todo:
        path = todo.pop()
        yield from scope.sections[path].entries.values()
        todo += scope.inside.get(path, ())


def _find(sections: dict, parts: list, user: Entry):
    """The Entry, or the path of the section, that the path means to `user`; None where there is none.

    A path of several parts is looked up from the root first; then both kinds go from the own section outwards.
    """
    inner, name = ".".join(parts[:-1]), parts[-1]
    found = _at(sections, inner, name) if inner else None
    scope = user.section
    while found is None:
        if inner or scope != user.section or name != user.key:
            found = _at(sections, f"{scope}.{inner}" if scope and inner else scope or inner, name)
        if not scope:
            break
        scope = scope.rpartition(".")[0]
    return found


def _at(sections: dict, section: str, name: str):
    held = sections.get(section)
    if held is not None and name in held.entries:
        return held.entries[name]
    path = f"{section}.{name}" if section else name
    return path if path in sections else None


def _environment(reference: Reference):
    value = os.environ.get(reference.env, reference.default)
    if value is None:
        advice = f"the environment variable {reference.env} is not set; set it, or give a default: "
        return None, advice + f"${{env:{reference.env}:default}}"
    return Entry("", reference.env, value, value, "environment", 0, ()), None


def _not_found(scope: _Scope, parts: list) -> str:
    known = 0
    while ".".join(parts[: known + 1]) in scope.sections:
        known += 1
    section = ".".join(parts[:known])
    if not known:
        problem = f'there is no "{parts[0]}".'
    elif parts[known] in scope.sections[section].entries:
        problem = f"{section}.{parts[known]} is a setting, so nothing stands below it."
    else:
        problem = f'[{section}] has no "{parts[known]}".'
    names = [*scope.sections, *(e.path for held in scope.sections.values() for e in held.entries.values())]
    if len(scope.problems) > 50:  # the search for near names takes its time
        return problem
    return f"{problem} {suggest('.'.join(parts), names, '${{{}}}')}"


def _report_cycle(scope: _Scope, stack: list, target: Entry) -> None:
    chain = stack[stack.index(target) :]
    names = [f"{entry.path} ({entry.place})" for entry in chain]
    if len(names) > 20:
        names[10:-10] = [f"… {len(names) - 20} more …"]
    message = "refers to itself: " + " -> ".join([*names, target.path])
    scope.problems.append(Problem(target.place, target.path, target.raw, message))
    for entry in chain:
        entry.state = Entry.BROKEN


def _fill(scope: _Scope, entry: Entry) -> None:
    """Replace the references of an entry whose targets are all ready."""
    template = entry.value
    try:
        entry.value = _put(scope, entry, template)
        if isinstance(template, Reference):
            target = entry.targets[template]
            entry.written = None if isinstance(target, str) else target.text
        elif not isinstance(template, Text) and not _copies(entry.value):
            entry.written = as_written(entry.value)
        if _depth(entry.value) + entry.section.count(".") + 1 > MAX_DEPTH:
            raise ValueError(f"the section that this copies makes it nested deeper than {MAX_DEPTH}")
        entry.state = Entry.DONE
    except ValueError as error:
        scope.problems.append(Problem(entry.place, entry.path, entry.raw, str(error)))
        entry.state = Entry.BROKEN


def _put(scope: _Scope, entry: Entry, value):
    """`value` with its references replaced, at any depth of lists and objects."""
    if isinstance(value, Reference):
        return _whole(scope, entry.targets[value], shared=value is entry.value)
    if isinstance(value, Text):
        return "".join(part if isinstance(part, str) else _as_text(scope, entry.targets[part]) for part in value)
    if isinstance(value, list):
        return [_put(scope, entry, item) for item in value]
    if isinstance(value, dict):
        return {key: _put(scope, entry, item) for key, item in value.items()}
    return value


def _whole(scope: _Scope, target, shared: bool):
    """The value that an unquoted reference stands for, with its type; a section as a copy to be made."""
    if isinstance(target, str):
        size = sum(len(other.key) + _size(other) for other in _entries_within(scope, target))
        _spend(scope, size)
        return SectionCopy(target, _section_depth(scope, target), size)
    if not shared or isinstance(target.value, SectionCopy):
        _spend(scope, _size(target))
    return target.value


def _as_text(scope: _Scope, target) -> str:
    copies = [SectionCopy(target, 0, 0)] if isinstance(target, str) else _copies(target.value)
    if copies:
        path = copies[0].path
        inside = [f"{path}.{key}" for key in scope.sections[path].entries]
        raise ValueError(f"[{path}] is a section, which has no text. {suggest(path, inside, '${{{}}}')}")
    _spend(scope, len(target.text))
    return target.text


def _spend(scope: _Scope, characters: int) -> None:
    scope.budget -= characters
    if scope.budget < 0:
        raise ValueError(
            f"the references of this file grow to more than {MAX_EXPANSION:,} characters; shorten the chain"
        )


def _copies(value) -> list:
    """The SectionCopy objects in a value."""
    if isinstance(value, SectionCopy):
        return [value]
    if isinstance(value, list | dict):
        return [copy for item in children(value) for copy in _copies(item)]
    return []


def _size(entry: Entry) -> int:
    copies = _copies(entry.value) if entry.references else ()
    return len(entry.written or entry.raw) + sum(copy.size for copy in copies)


def _section_depth(scope: _Scope, path: str) -> int:
    """Levels of a section, those that its values add included."""
    own = [_depth(entry.value) for entry in scope.sections[path].entries.values()]
    return 1 + max([0, *own, *(_section_depth(scope, inner) for inner in scope.inside.get(path, ()))])


def _depth(value) -> int:
    if isinstance(value, SectionCopy):
        return value.depth
    if isinstance(value, list | dict):
        return 1 + max(map(_depth, children(value)), default=0)
    return 0
