"""Ready-made functions, a file a shelf. Importing this registers them all and costs little: torch is imported late."""

from . import (
    augment,
    boxes,
    data,
    download,
    losses,
    metrics,
    models,
    optimizers,
    preprocess,
    scenes,
    schedules,
    trackers,
)

__all__ = ["augment", "boxes", "data", "download", "losses", "metrics", "models"]
__all__ += ["optimizers", "preprocess", "scenes", "schedules", "trackers"]
