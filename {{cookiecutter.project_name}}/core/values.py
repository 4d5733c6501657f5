"""One value: text -> JSON value, plain text, or a template that holds `${...}` references."""

import json
import re

MAX_DEPTH = 64
MAX_DIGITS = 4300

# Characters that make a text read other than it runs; printing escapes them, files may not hold them.
BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"
_WORDS = {"": "", "true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING = r'"(?:\\.|[^"\\])*"'
# The values that most settings have, told apart in one step: text in quotes, integer, float, reference.
_SIMPLE = re.compile(r'"([^"\\\x00-\x1f]*)"|(-?(?:0|[1-9][0-9]{0,18}))(\.[0-9]+)?|\$\{([^{}$]*)\}')
_COMMENT = re.compile(_STRING + r"|[ \t]+#")
_BRACKETS = re.compile(_STRING + r"|\$\{[^}]*\}|[\[\]{}]")
_OUTSIDE_STRINGS = re.compile(_STRING + r"|\$\{[^}]*\}|\$|-?Infinity|NaN")
_WHOLE = re.compile(r"\$\{[^{}$]*\}")
_DOLLAR = re.compile(r"(\$\$|\$\{[^{}$]*\}|\$)")
_BARE = re.compile(f"[^\\s\"'\\[{{\\x7f{BIDIRECTIONAL}]([^\\x00-\\x08\\x0a-\\x1f\\x7f{BIDIRECTIONAL}]*[^ \\t])?")
_ESCAPED = re.compile(f"[\\x7f{BIDIRECTIONAL}]")


class _Broken:
    """The value of a setting that has a problem of its own; it fits everything, so that it is told once."""


BROKEN = _Broken()


class Reference:
    """`${path}` or `${env:NAME:default}`."""

    __slots__ = ("default", "env", "path")

    def __init__(self, inner: str):
        self.env = self.default = None
        self.path = path = inner.strip().replace(":", ".")
        if inner.startswith("env:"):
            _, self.env, *default = inner.split(":", 2)
            self.default = default[0] if default else None
        elif not path:
            raise ValueError("an empty reference: write ${section.key}, or $$ for a dollar sign")
        elif path[0] == "." or path[-1] == "." or ".." in path:
            raise ValueError(f"${{{inner}}} has an empty part: write ${{section.key}}")


class Text(list):
    """Text with references inside: a list of str and Reference."""


class Template:
    """A list or object with references inside: `value` holds them as Reference and Text."""

    __slots__ = ("references", "value")

    def __init__(self, value, references: list):
        self.value, self.references = value, references


def read_value(raw: str):
    """The value of `raw`; one that holds references is a Reference, Text or Template.

    Raises ValueError whose text says what is wrong and how to write it.
    """
    first = raw[:1]
    if simple := _SIMPLE.fullmatch(raw):
        kind = simple.lastindex
        if kind > 1:
            return int(raw) if kind == 2 else float(raw) if kind == 3 else Reference(simple[4])
    if first == '"':
        text = simple[1] if simple else _json(raw)
        return _text(text) if "$" in text else text
    if first == "[" or first == "{":
        return _json_with_references(raw) if "$" in raw else _json(raw)
    if "$" in raw:
        return _text(raw[1:-1] if _single_quoted(raw) else raw)
    if raw in _WORDS:
        return _WORDS[raw]
    if first in "-0123456789" and (number := _NUMBER.fullmatch(raw)):
        return _float(raw) if number.lastindex else _integer(raw)
    if raw in ("NaN", "Infinity", "-Infinity"):
        _reject_constant(raw)
    return raw[1:-1] if first == "'" and _single_quoted(raw) else raw


def _single_quoted(raw: str) -> bool:
    return raw[0] == "'" and raw.count("'") == 2 and raw[-1] == "'"


def _integer(raw: str) -> int:
    if len(raw) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits; quote it if it is text")
    return int(raw)


def _float(raw: str) -> float:
    value = float(raw)
    if value - value != 0:  # 1e999 would silently be infinity
        raise ValueError(f'{raw} is too large for a float; as text write "{raw}"')
    return value


def _reject_constant(name: str):
    raise ValueError(f'{name} is no number that an experiment can use; as text write "{name}"')


def _unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" stands twice in this object; remove one')
    return result


_HOOKS = {"object_pairs_hook": _unique, "parse_int": _integer, "parse_float": _float}
_DECODER = json.JSONDecoder(parse_constant=_reject_constant, **_HOOKS)


def _json(raw: str, decoder: json.JSONDecoder = _DECODER):
    try:
        value = decoder.decode(raw)
        too_deep = raw[0] != '"' and depth(value) > MAX_DEPTH
    except json.JSONDecodeError as error:
        kind = {'"': "text in quotes", "[": "a list", "{": "an object"}[raw[0]]
        after = f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}"
        raise ValueError(f"this opens {kind} that does not parse ({after}); as plain text, quote all of it") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    try:
        _ = "\\u" in raw and json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (\\ud800 to \\udfff) is no character; write the pair or none") from None
    return value


def depth(value) -> int:
    """Levels of lists, objects and sections in a value."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return 1 + max(map(depth, value), default=0)


def _text(text: str):
    """`text` with `$$` made `$`: Text where references stand in it."""
    parts, plain = Text(_DOLLAR.split(text)), True  # text, token, text, token, ..., text
    for at in range(1, len(parts), 2):
        token = parts[at]
        if token == "$":
            raise ValueError(_dollar_advice("".join(parts[at:])))
        if token == "$$":
            parts[at] = "$"
        else:
            parts[at], plain = Reference(token[2:-1]), False
    return "".join(parts) if plain else parts


def _dollar_advice(rest: str) -> str:
    if not rest.startswith("${"):
        return "a lone $: write $$ for a dollar sign, or ${section.key} for a reference"
    if "}" not in rest:
        return "${ opens a reference that does not close: write ${section.key}, or $${ for the text"
    return "a reference inside a reference is not read: write the path out, as in ${section.key}"


def _json_with_references(raw: str):
    """Unquoted references travel through the JSON decoder as its constant NaN, which no file may hold."""
    unquoted, quoted = [], []

    def hide(match):
        token = match[0]
        if token[0] == '"':
            return token
        if token[0] != "$":
            _reject_constant(token)
        if not _WHOLE.fullmatch(token):
            raise ValueError(_dollar_advice(raw[match.start() :]))
        unquoted.append(Reference(token[2:-1]))
        return "NaN"

    def fill(value):
        if isinstance(value, str) and "$" in value:
            value = _text(value)
            quoted.extend(part for part in value if isinstance(part, Reference))
        elif isinstance(value, list):
            return [fill(item) for item in value]
        elif isinstance(value, dict):
            if any("$" in key and isinstance(_text(key), Text) for key in value):
                raise ValueError("a reference cannot stand in the key of an object")
            return {key.replace("$$", "$"): fill(item) for key, item in value.items()}
        return value

    queue = iter(unquoted)
    hidden = _OUTSIDE_STRINGS.sub(hide, raw)
    value = fill(_json(hidden, json.JSONDecoder(parse_constant=lambda _: next(queue), **_HOOKS)))
    return Template(value, unquoted + quoted) if unquoted or quoted else value


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` that stands outside quotes."""
    if " #" in text or "\t#" in text:
        start = text.find("'", 1) + 1 if text[0] == "'" else 0
        for match in _COMMENT.finditer(text, start):
            if match[0][0] != '"':
                return text[: match.start()]
    return text


def bracket_depth(text: str) -> int:
    """Brackets opened less brackets closed, outside quotes and references."""
    return sum((match[0] in "[{") - (match[0] in "]}") for match in _BRACKETS.finditer(text))


def as_written(value) -> str:
    """`value` as it would be written in a file: text bare where that reads back the same, else as JSON."""
    if isinstance(value, str) and _BARE.fullmatch(value):
        bare = value.replace("$", "$$")
        try:
            if strip_comment(bare) == bare and read_value(bare) == value:
                return bare
        except ValueError:  # such as NaN
            pass
    written = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", written)
