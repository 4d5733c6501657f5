"""All of torchvision.datasets by name, with its own arguments: `@load_dataset = torchvision.datasets.FashionMNIST`."""

from core import IngredientsError, registry
from pantry._adopt import adopt, refuse

_FUNCTIONS = ("transform", "target_transform", "transforms", "loader", "is_valid_file")  # [training.preprocess] does it


def _adopt_dataset(cls):
    """A class of torchvision.datasets as a registered function: `load() -> data set of (PIL image, target)`."""
    import torchvision

    name = f"torchvision.datasets.{cls.__name__}"
    base = torchvision.datasets.VisionDataset
    if not (isinstance(cls, type) and issubclass(cls, base)) or cls is base:
        return refuse(f"{name} is not a map-style data set")

    def factory(**settings):
        def load(**changed):
            try:
                return cls(**settings | changed)
            except (OSError, RuntimeError, ValueError) as error:  # no network, no such folder, a damaged file
                reason = " ".join(str(error).split())
                raise IngredientsError(f"{name}: {reason or type(error).__name__}") from error

        # for --check: the same without a download
        load.check = lambda: load(**{"download": False} if "download" in settings else {})
        return load

    return adopt(factory, cls, without=_FUNCTIONS)


registry.load_dataset.module("torchvision.datasets", _adopt_dataset)
