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
_STRING = r'"(?:\\.|[^"\\])*+"'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DOLLAR = re.compile(r"(\$\$|\$\{[^{}$]*\}|\$)")
_UNQUOTED = re.compile(_STRING + r"|(\$\{[^{}$]*\}|\$|-?Infinity|NaN)")  # what needs care in JSON, outside quotes
_UNCOMMENTED = re.compile(rf"(?:'[^']*')?(?:{_STRING}|(?![ \t]#).)*+", re.DOTALL)
_BRACKETS = re.compile(_STRING + r"|\$\{[^}]*\}|[\[\]{}]")
_BARE = re.compile(r"[\w./~](?:[\w ./~:,=+@%-]*[\w./~])?")  # text that needs no quotes, if it is no other value
_SURROGATE, _ESCAPED = re.compile("[\ud800-\udfff]"), re.compile(f"[\\x7f-\\x9f{BIDIRECTIONAL}]")

_JSON_ADVICE = {  # what JSON refuses begins with -> what to write instead
    "'": "inside a list or object use double quotes",
    "True": "inside a list or object write true",
    "False": "inside a list or object write false",
    "None": "inside a list or object write null",
    ".": "write a 0 before the dot",
    "]": "remove the comma before it",
    "}": "remove the comma before it",
    "": "as plain text, quote all of it",
}

Reference = namedtuple("Reference", "path env default", defaults=(None, None))  # ${path} or ${env:NAME:default}


class Text(list):
    """Text with references inside: a list of str and Reference."""


def read_value(raw: str):
    """The value of `raw`; a Reference, a Text, or a list or object that contains them, if it refers to settings.

    Raises ValueError that says what is wrong and what to write.
    """
    if raw[:1] in ('"', "[", "{"):
        return _read_json(raw)
    if raw in _WORDS:
        return _WORDS[raw]
    if _NUMBER.fullmatch(raw):
        return _number(raw)
    if raw in _CONSTANTS:
        raise ValueError(f'{raw} is not a number that an experiment can use; as text write "{raw}"')
    is_quoted = raw[:1] == "'" == raw[-1:] and raw.count("'") == 2
    return _read_text(raw[1:-1] if is_quoted else raw, is_quoted)


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


def _read_text(text: str, is_quoted: bool = False):
    """`text` with `$$` made `$`; Text if it contains references, a Reference if it is nothing else, without quotes."""
    if _SURROGATE.search(text):
        raise ValueError("a lone surrogate (\\ud800 to \\udfff) is not a character; write the pair or none")
    if "$" not in text:
        return text
    parts = Text(_DOLLAR.split(text))  # text, token, text, token, ..., text
    parts[1::2] = map(_read_dollar, parts[1::2])
    if not references_in(parts):
        return "".join(parts)
    return parts if is_quoted or len(parts) > 3 or parts[0] or parts[2] else parts[1]


def _read_dollar(token: str) -> str | Reference:
    """A `$`, from `$$`, or a reference."""
    inner = token[2:-1].strip()
    path = inner.replace(":", ".")
    if token == "$$":
        return "$"
    if ".." in f".{path}.":  # also of a lone $, of ${ that does not close, and of ${} within ${}
        raise ValueError(
            "this $ is no reference: write ${section.key}, with nothing nested in it, or $$ for a dollar sign"
        )
    return Reference(path, *inner.split(":", 2)[1:]) if inner.startswith("env:") else Reference(path)


def _read_json(raw: str):
    """A list, an object or quoted text. References pass the decoder as NaN, which no file may contain itself."""
    references = []

    def hide(match):
        token = match[1]
        if token is None:  # quoted
            return match[0]
        references.append(_read_dollar(token) if token[0] == "$" else read_value(token))
        return "NaN".ljust(len(token))  # as long as it was, so that an error counts characters right

    hidden, hooks = _UNQUOTED.sub(hide, raw), {}  # without hooks, quoted text is read three times as fast
    shown = iter(references)
    if raw[0] != '"':
        hooks = {"parse_int": _number, "parse_float": _number, "object_pairs_hook": _unique}
        hooks["parse_constant"] = lambda _: next(shown)
    try:
        return _read_texts(json.loads(hidden, **hooks))
    except json.JSONDecodeError as error:
        kind = {'"': "quoted text", "[": "a list", "{": "an object"}[raw[0]]
        after = f"{error.msg[0].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos + 1}"
        rest = raw[error.pos :]
        advice = (
            next(advice for start, advice in _JSON_ADVICE.items() if rest.startswith(start)) if rest else "close it"
        )
        raise ValueError(f"this opens {kind} that does not parse ({after}); {advice}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None


def _unique(pairs: list) -> dict:
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'duplicate key "{key}" in this object; remove one')
        result[key] = value
    return result


def _read_texts(value, depth: int = 0):
    """A value of JSON with the references in its texts."""
    if isinstance(value, str):
        return _read_text(value, is_quoted=True)
    if not isinstance(value, dict | list):
        return value
    if depth == MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        return [_read_texts(item, depth + 1) for item in value]
    if references_in([_read_text(key) for key in value]):
        raise ValueError("the key of an object cannot contain a reference")
    return {_read_text(key): _read_texts(item, depth + 1) for key, item in value.items()}


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` outside quotes."""
    return _UNCOMMENTED.match(text)[0] if "#" in text else text


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
