"""Ready-made functions, a file a shelf. Importing this registers them all and costs little: torch is imported late."""

from importlib import import_module
from os import listdir

for _file in sorted(listdir(__path__[0])):  # a project has the shelves that its task needs
    if _file.endswith(".py") and _file[0] != "_":
        import_module(f"{__name__}.{_file[:-3]}")
