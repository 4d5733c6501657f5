"""One value: text -> JSON value or plain text, in which `${...}` references may be left to resolve."""

import json
import re
from collections import namedtuple

MAX_DEPTH = 64
MAX_DIGITS = 4300
# Characters that make a text read other than it runs; printing escapes them, files may not contain them.
BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"
BROKEN = object()  # the value of a setting whose problem is reported already; it fits everything

_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_CONSTANTS = ("NaN", "Infinity", "-Infinity")
_STRING = r'"(?:\\.|[^"\\])*"'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DOLLAR = re.compile(r"(\$\$|\$\{[^{}$]*\}|\$)")
_IN_JSON = re.compile(rf"({_STRING})(\s*:)?|\$\{{([^{{}}$]*)\}}|\$|-?Infinity|NaN")
_COMMENT = re.compile(_STRING + r"|[ \t]+#")
_BRACKETS = re.compile(_STRING + r"|\$\{[^}]*\}|[\[\]{}]")
_BARE = re.compile(r"[\w./~](?:[\w ./~:,=+@%-]*[\w./~])?")  # text that needs no quotes, if it is no other value
_ESCAPED = re.compile(f"[\\x7f{BIDIRECTIONAL}]")

_JSON_ADVICE = {  # what JSON refuses begins with -> what to write instead
    "'": "inside a list or object use double quotes",
    "True": "inside a list or object write true",
    "False": "inside a list or object write false",
    "None": "inside a list or object write null",
    ".": "write a 0 before the dot",
    "]": "remove the comma before it",
    "}": "remove the comma before it",
}

Reference = namedtuple("Reference", "path env default", defaults=(None, None))  # ${path} or ${env:NAME:default}


class Text(list):
    """Text with references inside: a list of str and Reference."""


def read_value(raw: str):
    """The value of `raw`; a Reference, a Text, or a list or object that contains them, if it refers to settings.

    Raises ValueError that says what is wrong and what to write.
    """
    if raw[:1] == '"':
        return _text(_loads(raw), is_quoted=True)
    if raw[:1] in ("[", "{"):
        return _json(raw)
    if raw in _WORDS:
        return _WORDS[raw]
    if _NUMBER.fullmatch(raw):
        return _number(raw)
    if raw in _CONSTANTS:
        _refuse_constant(raw)
    if raw[:1] == "'" == raw[-1] and raw.count("'") == 2:
        return _text(raw[1:-1], is_quoted=True)
    return _text(raw)


def is_text(raw: str) -> bool:
    """Whether `raw` is plain text, with no bracket or double quote at its start."""
    return raw[:1] not in ("[", "{", '"') and raw not in _WORDS and not _NUMBER.fullmatch(raw)


def references_in(value) -> list[Reference]:
    """The references in a value that was read."""
    if isinstance(value, Reference):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [reference for item in items for reference in references_in(item)]


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
    raise ValueError(f'{name} is not a number that an experiment can use; as text write "{name}"')


def _text(text: str, is_quoted: bool = False):
    """`text` with `$$` made `$`; Text if it contains references, a Reference if it is nothing else, without quotes."""
    parts = Text(_DOLLAR.split(text))  # text, token, text, token, ..., text
    for at in range(1, len(parts), 2):
        if parts[at] == "$":
            raise ValueError(_dollar_advice("".join(parts[at:])))
        parts[at] = "$" if parts[at] == "$$" else _reference(parts[at][2:-1])
    if not references_in(parts):
        return "".join(parts)
    return parts if is_quoted or len(parts) > 3 or parts[0] or parts[2] else parts[1]


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
    return "references cannot be nested: write the path out, as in ${section.key}"


def _json(raw: str):
    """A list or object. What contains a `$` travels past the decoder as NaN, which no file may contain itself."""
    if "$" not in raw:
        return _loads(raw)
    values = []

    def hide(match):
        text, colon, reference = match.groups()
        if text and "$" not in text:
            return match[0]
        if match[0] == "$":
            raise ValueError(_dollar_advice(raw[match.start() :]))
        if not text and reference is None:
            _refuse_constant(match[0])
        value = _text(_loads(text), is_quoted=True) if text else _reference(reference)
        if colon and isinstance(value, Text):
            raise ValueError("the key of an object cannot contain a reference")
        if colon:
            return json.dumps(value) + colon
        values.append(value)
        return "NaN".ljust(len(match[0]))  # as long as it was, so that an error counts characters right

    hidden, shown = _IN_JSON.sub(hide, raw), iter(values)
    return _loads(hidden, lambda _: next(shown))


def _loads(raw: str, constant=_refuse_constant):
    hooks = {"parse_int": _number, "parse_float": _number, "parse_constant": constant, "object_pairs_hook": _unique}
    try:
        value = json.loads(raw, **hooks)
        too_deep = _depth(value) > MAX_DEPTH
        if "\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        kind = {'"': "quoted text", "[": "a list", "{": "an object"}[raw[0]]
        after = f"{error.msg[0].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos + 1}"
        rest = raw[error.pos :]
        advice = next((advice for start, advice in _JSON_ADVICE.items() if rest.startswith(start)), None)
        advice = advice or ("as plain text, quote all of it" if rest else "close it")
        raise ValueError(f"this opens {kind} that does not parse ({after}); {advice}") from None
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate (\\ud800 to \\udfff) is not a character; write the pair or none") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return value


def _unique(pairs: list) -> dict:
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'duplicate key "{key}" in this object; remove one')
        result[key] = value
    return result


def _depth(value) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None or isinstance(value, Text) else 1 + max(map(_depth, items), default=0)


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` outside quotes."""
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
    """`value` as a file would have it: bare text if it reads back the same, else JSON."""
    if isinstance(value, str) and _BARE.fullmatch(value) and is_text(value) and value not in _CONSTANTS:
        return value
    return as_json(value)


def as_json(value) -> str:
    """`value` as JSON that means the same in a file."""
    written = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", written)
