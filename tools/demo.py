"""Render the digits project, train it, and say how long that took and where it all is: `make demo` runs this."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "digits-demo"


def template_files():
    """Paths of the template's own files: a folder that was worked in also holds caches, data and runs."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        skipped = {".git", ".venv", "__pycache__"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [path for path in found if not skipped & set(path.parts)]


def render(folder):
    """The digits project, rendered into `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch) / ROOT.name
        for file in template_files():
            (template / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, template / file)
        # --default-config: answers that the user keeps for other templates would change the demo.
        command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--default-config"]
        answers = [f"project_name={NAME}", "task=classification", "data=digits"]
        if status := subprocess.run([*command, "--output-dir", str(folder), *answers]).returncode:
            sys.exit(status)
    return folder / NAME


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the project goes (default: a temporary folder)")
    parser.add_argument("--started", type=int, help="when the set-up began, in seconds since 1970 (default: now)")
    args = parser.parse_args()
    started = time.time() if args.started is None else args.started

    folder = args.folder.resolve() if args.folder else Path(tempfile.mkdtemp(prefix="autotrain-"))
    project = render(folder)
    set_up = time.time() - started

    training_started = time.time()
    if status := subprocess.run([sys.executable, "train.py"], cwd=project).returncode:
        sys.exit(status)
    training = time.time() - training_started
    print(f"\nset-up {set_up:.0f} s, training {training:.1f} s\nproject: {project}\nits runs: {project / 'runs'}")


if __name__ == "__main__":
    main()
