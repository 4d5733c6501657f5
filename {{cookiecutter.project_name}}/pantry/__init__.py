"""Ready-made functions, a file a shelf. Importing this registers them all and costs little: torch is imported late."""

from . import augment, data, download, losses, models, optimizers, preprocess, schedules

__all__ = ["augment", "data", "download", "losses", "models", "optimizers", "preprocess", "schedules"]
