"""One value: text -> JSON value or plain text, with what its `${...}` references stand for."""

import json
import re

MAX_DEPTH = 64
MAX_DIGITS = 4300
# Characters that make a text read other than it runs; printing escapes them, files may not contain them.
BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"
BROKEN = object()  # the value of a setting whose problem is reported already; it fits everything

_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity")
_DOLLAR = re.compile(r"(\$\$|\$\{[^{}$]*\}|\$)")
_SIMPLE = re.compile(r'"[^"\\\x00-\x1f]*"')  # quoted text that needs no decoder, as most
# Outside quotes a backslash is an error in JSON. That \" opens no string keeps the search for its end linear.
_STRING = r'"(?:\\.|[^"\\])*+"'
_UNQUOTED = re.compile(rf"(?<!\\){_STRING}|(\$\{{[^{{}}$]*\}}|\$|-?Infinity|NaN)")  # what needs care, outside quotes
_BRACKETS = re.compile(rf"(?<!\\){_STRING}|\$\{{[^}}]*+\}}?|[\[\]{{}}]")
_UNCOMMENTED = re.compile(rf"(?:'[^']*')?(?:{_STRING}|(?![ \t]#)[^\"])*+(?:(?![ \t]#).)*+", re.DOTALL)
_BARE = re.compile(r"[\w./~](?:[\w ./~:,=+@%-]*[\w./~])?")  # text that needs no quotes, if it is no other value
_SURROGATE, _ESCAPED = re.compile("[\ud800-\udfff]"), re.compile(f"[\\x7f-\\x9f{BIDIRECTIONAL}]")

_JSON_ADVICE = {  # the word or character that JSON refuses -> what to write instead
    "": "close it",
    "'": "inside a list or object use double quotes",
    "True": "inside a list or object write true",
    "False": "inside a list or object write false",
    "None": "inside a list or object write null",
    ".": "write a 0 before the dot",
    "]": "remove the comma before it",
    "}": "remove the comma before it",
}


def evaluate(raw: str, look_up):
    """The value of `raw`, with look_up(path, is_text) for each `${path}`. Raises ValueError that says what to write."""
    if raw[:1] in ('"', "[", "{"):
        return _fill_text(raw[1:-1], look_up) if _SIMPLE.fullmatch(raw) else _read_json(raw, look_up)
    if raw in _WORDS:
        return _WORDS[raw]
    if _NUMBER.fullmatch(raw):
        return _number(raw)
    is_quoted = raw[:1] == "'" == raw[-1:] and raw.count("'") == 2
    return _fill_text(raw[1:-1] if is_quoted else raw, look_up, is_quoted)


def is_text(raw: str) -> bool:
    """Whether `raw` is plain text, with no bracket or double quote at its start."""
    return raw[:1] not in ("[", "{", '"') and raw not in _WORDS and not _NUMBER.fullmatch(raw)


def _number(raw: str) -> int | float:
    if len(raw) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits; quote it if it is text")
    if raw.lstrip("-").isdigit():
        return int(raw)
    value = float(raw)
    if value - value != 0:  # NaN, Infinity, and 1e999, which would silently be infinity
        raise ValueError(f'{raw} is not a finite number; as text write "{raw}"')
    return value


def _fill_text(text: str, look_up, is_quoted: bool = True):
    """`text` with `$$` made `$`, and its references put in. Nothing but a reference, unquoted, may be any value."""
    if "$" not in text:
        return text
    parts = _DOLLAR.split(text)  # text, token, text, token, ..., text
    if parts[0] == parts[-1] == "" and len(parts) == 3 and parts[1] != "$$" and not is_quoted:
        return look_up(_path(parts[1]), False)
    parts[1::2] = ["$" if token == "$$" else look_up(_path(token), True) for token in parts[1::2]]
    return "".join(parts)


def _path(token: str) -> str:
    """The path in `${path}`, with dots; `env:NAME:default` stays as it is."""
    path = token[2:-1].strip()
    if path.startswith("env:"):
        return path
    path = path.replace(":", ".")
    if ".." in f".{path}.":  # also of a lone $, of ${ that does not close, and of ${} within ${}
        message = "this $ is no reference: write ${section.key}, with nothing nested in it, or $$ for a dollar sign"
        raise ValueError(message)
    return path


def _read_json(raw: str, look_up):
    """A list, an object or quoted text. References pass the decoder as NaN, which no file may contain itself."""
    paths = []

    def hide(match):
        token = match[1]
        if token is None:  # quoted
            return match[0]
        paths.append((_path(token) if token[0] == "$" else _number(token),))  # a tuple, which JSON has not
        return "NaN".ljust(len(token))  # as long as it was, so that an error counts characters right

    hidden = _UNQUOTED.sub(hide, raw)
    shown = iter(paths)
    hooks = {"parse_int": _number, "parse_float": _number, "parse_constant": lambda _: next(shown)}
    try:
        return _fill(json.loads(hidden, object_pairs_hook=_unique, **hooks), look_up)
    except json.JSONDecodeError as error:
        after = f"{error.msg[0].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos + 1}"
        word = re.match(r"\w+|.?", raw[error.pos :])[0]
        advice = _JSON_ADVICE.get(word, "as plain text, quote all of it")
        raise ValueError(f"this begins with {raw[0]} but does not parse ({after}); {advice}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None


def _unique(pairs: list) -> dict:
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'duplicate key "{key}" in this object; remove one')
        result[key] = value
    return result


def _fill(value, look_up, depth: int = 0):
    """A value of JSON with its references, and those in its texts, put in."""
    if isinstance(value, tuple):
        return look_up(value[0], False)
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError("a lone surrogate (\\ud800 to \\udfff) is not a character; write the pair or none")
        return _fill_text(value, look_up)
    if not isinstance(value, dict | list):
        return value
    if depth == MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        return [_fill(item, look_up, depth + 1) for item in value]
    return {_fill(key, no_reference): _fill(item, look_up, depth + 1) for key, item in value.items()}


def no_reference(path: str, is_text: bool):
    """`look_up` of `evaluate` where none may be."""
    raise ValueError("the key of an object cannot contain a reference, nor can the name of a base file")


def strip_comment(text: str) -> str:
    """`text` without a trailing ` # note` outside quotes."""
    return _UNCOMMENTED.match(text)[0] if "#" in text else text


def brackets(text: str) -> int:
    """Brackets opened less brackets closed, outside quotes and references."""
    return sum((match[0] in "[{") - (match[0] in "]}") for match in _BRACKETS.finditer(text))


def as_written(value) -> str:
    """`value` as a file would have it: bare text if it reads back the same, else JSON."""
    if isinstance(value, str) and _BARE.fullmatch(value) and is_text(value):
        return value
    return as_json(value)


def as_json(value) -> str:
    """`value` as JSON that means the same in a file."""
    written = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", written)
