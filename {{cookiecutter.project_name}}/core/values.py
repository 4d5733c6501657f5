"""One value: text -> JSON value, plain text, or a template that holds `${...}` references."""

import json
import re

MAX_DEPTH = 64
MAX_DIGITS = 4300

_WORDS = {"": "", "true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_CONSTANTS = {"NaN", "Infinity", "-Infinity"}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT = re.compile(_STRING + r"|[ \t]+#")
_BRACKETS = re.compile(_STRING + r"|\$\{[^}]*\}|[\[\]{}]")
_OUTSIDE_STRINGS = re.compile(_STRING + r"|\$\{[^}]*\}|\$|-?Infinity|NaN")
_DOLLAR = re.compile(r"\$\$|\$\{([^{}$]*)\}|\$")
# Characters that make a text read other than it runs; printing escapes them, files may not hold them.
BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


class _Broken:
    """The value of a setting that has a problem of its own; it fits everything, so that it is told once."""

    def __repr__(self):
        return "BROKEN"


BROKEN = _Broken()


class Reference:
    """`${path}`: the parts of the path; or an environment variable with its default."""

    __slots__ = ("default", "env", "parts", "written")

    def __init__(self, inner: str):
        self.written = "${" + inner + "}"
        self.env = self.default = None
        self.parts = inner.strip().replace(":", ".").split(".")
        if not inner.strip():
            raise ValueError("an empty reference: write ${section.key}, or $$ for a dollar sign")
        if inner.startswith("env:"):
            _, self.env, *default = inner.split(":", 2)
            self.default = default[0] if default else None
        elif not all(part and part == part.strip() for part in self.parts):
            raise ValueError(f"{self.written} has an empty part: write ${{section.key}}")


class Text(list):
    """Text with references inside: a list of str and Reference."""


def read_value(raw: str):
    """The value of `raw`, and the references in it (an empty list for a value that is ready).

    Raises ValueError whose text says what is wrong and how to write it.
    """
    if "$" not in raw:
        return _literal(raw), ()
    if raw[0] == '"' or raw[0] in "[{":
        return _json_with_references(raw)
    quoted = raw[0] == "'" and len(raw) > 1 and raw[-1] == "'" and "'" not in raw[1:-1]
    references = []
    value = _text(raw[1:-1] if quoted else raw, references)
    if isinstance(value, Text) and len(value) == 1 and not quoted:
        value = value[0]
    return value, references


def _literal(raw: str):
    if raw in _WORDS:
        return _WORDS[raw]
    first = raw[0]
    if first in "-0123456789":
        number = _NUMBER.fullmatch(raw)
        if number:
            return _number(raw, number)
    elif first in '"[{':
        return _json(raw, _DECODER)
    elif first == "'" and len(raw) > 1 and raw[-1] == "'" and "'" not in raw[1:-1]:
        return raw[1:-1]
    if raw in _CONSTANTS:
        raise ValueError(f'{raw} is no number that an experiment can use; as text write "{raw}"')
    return raw


def _number(raw: str, match):
    if not (match[1] or match[2]):
        return _integer(raw)
    value = float(raw)
    if value - value != 0:  # 1e999 would silently be infinity
        raise ValueError(f'{raw} is too large for a float; as text write "{raw}"')
    return value


def _integer(raw: str) -> int:
    if len(raw.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits; quote it if it is text")
    return int(raw)


def _float(raw: str) -> float:
    return _number(raw, _NUMBER.fullmatch(raw))


def _reject_constant(name: str):
    raise ValueError(f'{name} is no number that an experiment can use; as text write "{name}"')


def _unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" stands twice in this object; remove one')
    return result


def _decoder(parse_constant) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=parse_constant, parse_int=_integer, parse_float=_float
    )


_DECODER = _decoder(_reject_constant)


def _json(raw: str, decoder: json.JSONDecoder):
    kind = {'"': "text in quotes", "[": "a list", "{": "an object"}[raw[0]]
    try:
        value = decoder.decode(raw)
    except json.JSONDecodeError as error:
        after = f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}"
        raise ValueError(f"this opens {kind} that does not parse ({after}); as plain text, quote all of it") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    if raw[0] != '"' and _too_deep(value):
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if "\\u" in raw:
        _refuse_surrogates(value)
    return value


def _too_deep(value) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level if isinstance(item, list | dict) for child in children(item)]
        if not level:
            return False
    return any(isinstance(item, list | dict) for item in level)


def children(value: list | dict):
    return value.values() if isinstance(value, dict) else value


def _refuse_surrogates(value) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(
            "a lone surrogate (\\ud800 to \\udfff) is no character; write the pair or leave it out"
        ) from None


def _text(text: str, references: list):
    """`text` with `$$` made `$`, and its references as Reference; plain str where there are none."""
    parts, end = Text(), 0
    for match in _DOLLAR.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == "$$":
            parts.append("$")
        elif match[1] is not None:
            parts.append(Reference(match[1]))
            references.append(parts[-1])
        else:
            raise ValueError(_dollar_advice(text[match.start() :]))
    parts.append(text[end:])
    if not any(isinstance(part, Reference) for part in parts):
        return "".join(parts)
    return Text(part for part in parts if part != "")


def _dollar_advice(rest: str) -> str:
    if not rest.startswith("${"):
        return "a lone $: write $$ for a dollar sign, or ${section.key} for a reference"
    if "}" not in rest:
        return "${ opens a reference that does not close: write ${section.key}, or $${ for the text"
    return "a reference inside a reference is not read: write the path out, as in ${section.key}"


def _json_with_references(raw: str):
    """Unquoted references travel through the JSON decoder as its constant NaN, which no file may hold."""
    unquoted, references = [], []

    def hide(match):
        token = match[0]
        if token[0] == '"':
            return token
        if token[0] != "$":
            _reject_constant(token)
        if not _DOLLAR.fullmatch(token) or token == "$":
            raise ValueError(_dollar_advice(raw[match.start() :]))
        unquoted.append(Reference(token[2:-1]))
        return "NaN"

    hidden = _OUTSIDE_STRINGS.sub(hide, raw)
    queue = iter(unquoted)
    value = _json(hidden, _decoder(lambda _: next(queue)))
    value = _templates(value, references)
    return value, unquoted + references


def _templates(value, references: list):
    if isinstance(value, str):
        return _text(value, references) if "$" in value else value
    if isinstance(value, list):
        return [_templates(item, references) for item in value]
    if isinstance(value, dict):
        inside = []
        keys = [_text(key, inside) if "$" in key else key for key in value]
        if inside:
            raise ValueError("a reference cannot stand in the key of an object")
        return dict(zip(keys, [_templates(item, references) for item in value.values()], strict=True))
    return value


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` that stands outside quotes."""
    if " #" not in text and "\t#" not in text:
        return text
    start = text.find("'", 1) + 1 if text[0] == "'" else 0
    for match in _COMMENT.finditer(text, max(start, 0)):
        if match[0][0] != '"':
            return text[: match.start()]
    return text


def bracket_depth(text: str) -> int:
    """Brackets opened less brackets closed, outside quotes and references."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        depth += (token in "[{") - (token in "]}")
    return depth


def as_written(value) -> str:
    """`value` as it would be written in a file: text bare where that reads back the same, else as JSON."""
    if isinstance(value, str):
        bare = value.replace("$", "$$")
        if value and value == value.strip(" \t") and _plain(value) and _reads_as(bare, value):
            return bare
    written = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    for mark in [*BIDIRECTIONAL, "\x7f"]:
        if mark in written:
            written = written.replace(mark, f"\\u{ord(mark):04x}")
    return written


def _plain(value: str) -> bool:
    return not any(c < " " and c != "\t" for c in value) and not any(mark in value for mark in BIDIRECTIONAL + "\x7f")


def _reads_as(bare: str, value: str) -> bool:
    if strip_comment(bare) != bare or bare[0] in "\"'[{":
        return False
    try:
        return read_value(bare) == (value, ()) or read_value(bare) == (value, [])
    except ValueError:
        return False
