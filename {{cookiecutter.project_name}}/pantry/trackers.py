"""Experiment trackers: `track(folder, ingredients) -> log`, then `log(metrics, step)`, and `log.close()` at the end.

`folder` is the folder of the run, `ingredients` are its settings, `metrics` are numbers by name, `step` is the epoch.
"""

from pathlib import Path

from core import registry
from core.registry import need


@registry.tracker.register("tensorboard")
def tensorboard():
    """TensorBoard: `tensorboard --logdir runs` shows all runs."""
    need("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def track(folder: Path, ingredients):
        writer = SummaryWriter(folder)
        text = str(ingredients).replace("\n", "\n    ")
        writer.add_text("ingredients", f"    {text}")  # indented: Markdown keeps the lines

        def log(metrics: dict, step: int) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        log.close = writer.close
        return log

    return track


@registry.tracker.register("mlflow")
def mlflow(experiment: str = "Default", uri: str | None = None):
    """MLflow (mlflow.org); `uri`: a server or a database (sqlite:///mlflow.db), by default MLFLOW_TRACKING_URI."""
    client = need("mlflow")

    def track(folder: Path, ingredients):
        if uri is not None:
            client.set_tracking_uri(uri)
        client.set_experiment(experiment)
        run_id = folder / "mlflow.txt"  # a resumed run continues under the same id
        run = client.start_run(run_id=run_id.read_text() if run_id.is_file() else None, run_name=folder.name)
        if not run_id.is_file():
            run_id.write_text(run.info.run_id)
            client.log_params(_flat(ingredients))

        def log(metrics: dict, step: int) -> None:
            client.log_metrics(metrics, step=step)

        log.close = client.end_run
        return log

    return track


@registry.tracker.register("wandb")
def wandb(project: str, entity: str | None = None, mode: str | None = None):
    """Weights & Biases (wandb.ai), after `wandb login`; mode = offline keeps everything in the run's folder."""
    client = need("wandb")

    def track(folder: Path, ingredients):
        where = {"project": project, "entity": entity, "mode": mode, "dir": str(folder)}
        run = client.init(**where, id=folder.name, name=folder.name, resume="allow", config=_flat(ingredients))

        def log(metrics: dict, step: int) -> None:
            run.log(metrics, step=step)

        log.close = run.finish
        return log

    return track


def _flat(ingredients, path: str = "") -> dict:
    """The settings by dotted name."""
    flat = {}
    for key, value in ingredients.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return flat
