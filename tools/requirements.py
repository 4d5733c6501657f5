"""Print what working on the template needs: its own tools, and whatever the rendered project depends on.

The project's pyproject.toml stays the one place that names its dependencies. Installers refuse to read it where it
lies, because its name is still a placeholder; as TOML it is sound.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def requirements():
    template = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "{{cookiecutter.project_name}}" / "pyproject.toml").read_text(encoding="utf-8"))
    # The project's dev group names the same tools without a version.
    dependencies = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["detection"]
    return dependencies + template["dependency-groups"]["dev"]


if __name__ == "__main__":
    print("\n".join(requirements()))
