"""One value: text -> JSON value, plain text, or a template that holds `${...}` references."""

import json
import re
from collections import namedtuple

MAX_DEPTH = 64
MAX_DIGITS = 4300
# Characters that make a text read other than it runs; printing escapes them, files may not hold them.
BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"
BROKEN = object()  # the value of a setting that has a problem of its own; it fits everything, so that it is told once

_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_CONSTANTS = ("NaN", "Infinity", "-Infinity")
_STRING, _REFERENCE = r'"(?:\\.|[^"\\])*"', r"\$\{([^{}$]*)\}"
# Most values, told apart in one step: 1 text in quotes, 2 integer with 3 fraction and 4 exponent, 5 reference.
_USUAL = re.compile(r'"([^"\\\x00-\x1f]*)"|(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?|' + _REFERENCE)
_DOLLAR = re.compile(r"(\$\$|\$\{[^{}$]*\}|\$)")
_IN_JSON = re.compile(rf"({_STRING})(\s*:)?|{_REFERENCE}|\$|-?Infinity|NaN")
_COMMENT = re.compile(_STRING + r"|[ \t]+#")
_BRACKETS = re.compile(_STRING + r"|\$\{[^}]*\}|[\[\]{}]")
_BARE = re.compile(r"[\w./~](?:[\w ./~:,=+@%-]*[\w./~])?")  # text that needs no quotes, if it is no other value
_ESCAPED = re.compile(f"[\\x7f{BIDIRECTIONAL}]")

Reference = namedtuple("Reference", "path env default", defaults=(None, None))  # ${path} or ${env:NAME:default}
Template = namedtuple("Template", "value references")  # a list or object that holds them, as Reference and Text


class Text(list):
    """Text with references inside: a list of str and Reference."""


def read_value(raw: str):
    """The value of `raw`; one that holds references is a Reference, Text or Template.

    Raises ValueError whose text says what is wrong and how to write it.
    """
    usual, first = _USUAL.fullmatch(raw), raw[:1]
    if usual:
        kind = usual.lastindex
        return _text(usual[1]) if kind == 1 else _reference(usual[5]) if kind == 5 else _number(raw)
    if first == "[" or first == "{":
        return _json(raw)
    if first == '"':
        return _text(_json(raw))
    if first == "'" == raw[-1] and raw.count("'") == 2:
        return _text(raw[1:-1])
    if raw in _CONSTANTS:
        _refuse_constant(raw)
    return _WORDS[raw] if raw in _WORDS else _text(raw)


def is_text(raw: str) -> bool:
    """Whether `raw`, which opens no bracket, is text without double quotes."""
    usual = _USUAL.fullmatch(raw)
    return raw[:1] != '"' and raw not in _WORDS and not (usual and usual[2])


def _number(raw: str) -> int | float:
    if raw.lstrip("-").isdigit():
        if len(raw) > MAX_DIGITS:
            raise ValueError(f"an integer of more than {MAX_DIGITS} digits; quote it if it is text")
        return int(raw)
    value = float(raw)
    if value - value != 0:  # 1e999 would silently be infinity
        raise ValueError(f'{raw} is too large for a float; as text write "{raw}"')
    return value


def _refuse_constant(name: str):
    raise ValueError(f'{name} is no number that an experiment can use; as text write "{name}"')


def _text(text: str):
    """`text` with `$$` made `$`: Text where references stand in it."""
    if "$" not in text:
        return text
    parts = Text(_DOLLAR.split(text))  # text, token, text, token, ..., text
    for at in range(1, len(parts), 2):
        if parts[at] == "$":
            raise ValueError(_dollar_advice("".join(parts[at:])))
        parts[at] = "$" if parts[at] == "$$" else _reference(parts[at][2:-1])
    return parts if Reference in map(type, parts) else "".join(parts)


def _reference(inner: str) -> Reference:
    path = inner.strip().replace(":", ".")
    if inner.startswith("env:"):
        return Reference(path, *inner.split(":", 2)[1:])
    if not path:
        raise ValueError("an empty reference: write ${section.key}, or $$ for a dollar sign")
    if ".." in f".{path}.":
        raise ValueError(f"${{{inner}}} has an empty part: write ${{section.key}}")
    return Reference(path)


def _dollar_advice(rest: str) -> str:
    if not rest.startswith("${"):
        return "a lone $: write $$ for a dollar sign, or ${section.key} for a reference"
    if "}" not in rest:
        return "${ opens a reference that does not close: write ${section.key}, or $${ for the text"
    return "a reference inside a reference is not read: write the path out, as in ${section.key}"


def _json(raw: str):
    """A list, an object or text in quotes; a Template where references stand in a list or object."""
    values = []  # what has a `$` travels past the JSON decoder, which sees NaN instead; no file may hold that itself

    def hide(match):
        text, colon, reference = match.groups()
        if text and "$" not in text:
            return match[0]
        if match[0] == "$":
            raise ValueError(_dollar_advice(raw[match.start() :]))
        if not text and reference is None:
            _refuse_constant(match[0])
        value = _text(_json(text)) if text else _reference(reference)
        if colon and isinstance(value, Text):
            raise ValueError("a reference cannot stand in the key of an object")
        if colon:
            return json.dumps(value) + colon
        values.append(value)
        return "NaN".ljust(len(match[0]))  # as long as it was, so that an error names the right character

    hidden = _IN_JSON.sub(hide, raw) if "$" in raw and raw[0] != '"' else raw
    shown = iter(values)
    constant = (lambda _: next(shown)) if values else _refuse_constant
    hooks = {"parse_int": _number, "parse_float": _number, "parse_constant": constant, "object_pairs_hook": _unique}
    try:
        value = json.loads(hidden, **hooks)
    except json.JSONDecodeError as error:
        kind = {'"': "text in quotes", "[": "a list", "{": "an object"}[raw[0]]
        after = f"{error.msg[0].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos + 1}"
        advice = _as_json(raw[error.pos :]) or "as plain text, quote all of it"
        raise ValueError(f"this opens {kind} that does not parse ({after}); {advice}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    try:
        _ = "\\u" in raw and json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (\\ud800 to \\udfff) is no character; write the pair or none") from None
    parts = [part for value in values for part in (value if isinstance(value, Text) else [value])]
    references = [part for part in parts if isinstance(part, Reference)]
    return Template(value, references) if references else value


def _as_json(rest: str) -> str | None:
    """The mend of what Python allows in a list or object and JSON does not; `rest` begins where it stands."""
    if rest[:1] == "'":
        return "in a list or object text stands in double quotes"
    for word, right in (("True", "true"), ("False", "false"), ("None", "null")):
        if rest.startswith(word):
            return f"in a list or object write {right}"
    if number := re.match(r"\.[0-9]+", rest):
        return f"write 0{number[0]}"
    return "remove the comma before it" if rest[:1] in ("]", "}") else "close it" if not rest else None


def _unique(pairs: list) -> dict:
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" stands twice in this object; remove one')
        result[key] = value
    return result


def depth(value) -> int:
    """Levels of lists, objects and sections in a value."""
    inside = value.values() if isinstance(value, dict) else value if type(value) is list else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` that stands outside quotes."""
    if " #" in text or "\t#" in text:
        start = text.find("'", 1) + 1 if text[0] == "'" else 0
        for match in _COMMENT.finditer(text, start):
            if match[0][0] != '"':
                return text[: match.start()]
    return text


def brackets(text: str) -> int:
    """Brackets opened less brackets closed, outside quotes and references."""
    return sum((match[0] in "[{") - (match[0] in "]}") for match in _BRACKETS.finditer(text))


def as_written(value) -> str:
    """`value` as it would be written in a file: text bare where that reads back the same, else as JSON."""
    if isinstance(value, str) and _BARE.fullmatch(value) and is_text(value) and value not in _CONSTANTS:
        return value
    return as_json(value)


def as_json(value) -> str:
    """`value` as JSON that means the same in a file."""
    written = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", written)
