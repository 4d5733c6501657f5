"""Data sets of the Hugging Face hub, or of local Parquet, JSON and image folders: `pip install datasets`."""

from core import IngredientsError, registry
from core.registry import need


@registry.load_dataset.register("huggingface")
def huggingface(
    path: str,
    split: str = "train",
    name: str | None = None,
    data_files: str | list[str] | dict[str, str] | None = None,
    inputs: str = "image",
    target: str = "label",
):
    """`load() -> data set` of (inputs, class index), read by the package datasets.

    path: a name of the hub such as ylecun/mnist, a folder, or parquet, json, csv, imagefolder with `data_files`
    split: as `datasets` writes it, such as train or train[:80%]; name: of a configuration
    inputs, target: the columns; targets that are text become class indices in alphabetical order

    Raises IngredientsError if the data set or a column is not there.
    """
    datasets = need("datasets")

    def load() -> Rows:
        try:
            table = datasets.load_dataset(path, name, split=split, data_files=data_files)
        except (OSError, ValueError, RuntimeError) as error:  # of datasets, huggingface_hub and pyarrow alike
            raise IngredientsError(f"{path}: cannot be loaded: {' '.join(str(error).split())}") from error
        columns = ", ".join(table.column_names)
        if missing := [column for column in (inputs, target) if column not in table.column_names]:
            raise IngredientsError(f"{path}: there is no column {' or '.join(missing)}; its columns are {columns}")
        return Rows(table, inputs, target)

    return load


class Rows:
    """A map-style data set over a table of the package datasets: `rows[i] -> (inputs, target)`."""

    def __init__(self, table, inputs: str, target: str):
        self.table, self.inputs, values = table, inputs, table[target]
        names = table.features[target].names if "names" in vars(table.features[target]) else None
        if names is None and isinstance(values[0], str):
            names = sorted(set(values))
            values = [names.index(value) for value in values]
        self.classes, self.targets = names, list(values)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.table[index][self.inputs], self.targets[index]
