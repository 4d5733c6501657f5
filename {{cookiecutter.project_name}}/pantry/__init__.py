"""Ready-made functions, a file a shelf. A shelf is imported when a name on it is asked for.

Importing this reads the text of the shelves for the names that they register at the start of a line, as in
`@registry.loss.register("focal")` or `registry.loss.module("torch.nn", ...)`, and creates their registries. So a shelf
that is deleted takes its names along, and nothing else.
"""

import os
import re

from core import registry

_REGISTERED = re.compile(r'^@?registry\.(\w+)\.(register|module)\(\s*"([^"\n]+)"', re.MULTILINE)

for _file in sorted(os.listdir(__path__[0])):
    if _file.endswith(".py") and _file[0] != "_":
        with open(os.path.join(__path__[0], _file), encoding="utf-8") as _shelf:
            for _kind, _how, _name in _REGISTERED.findall(_shelf.read()):
                _name += ".*" if _how == "module" else ""
                registry.create(_kind).shelve(_name, f"{__name__}.{_file[:-3]}")
