"""Ready-made functions, a file a shelf. Importing this registers them all and costs little: torch is imported late."""

from . import augment, data, download, losses, metrics, models, optimizers, preprocess, schedules, trackers

__all__ = ["augment", "data", "download", "losses", "metrics", "models"]
__all__ += ["optimizers", "preprocess", "schedules", "trackers"]
