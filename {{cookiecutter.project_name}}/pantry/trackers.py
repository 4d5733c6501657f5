"""Where figures are shown: `track(folder, ingredients) -> log`, then `log(figures, step)` and at the end `log.close()`.

`folder` is that of the run, `ingredients` all of its settings, `figures` numbers by their names.
"""

from pathlib import Path

from core import registry
from core.adopt import need

registry.create("tracker")


@registry.tracker.register("tensorboard")
def tensorboard():
    """TensorBoard: `tensorboard --logdir runs` shows all runs."""
    need("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def track(folder: Path, ingredients):
        writer = SummaryWriter(folder)
        writer.add_text(
            "ingredients", "    " + str(ingredients).replace("\n", "\n    ")
        )  # indented: shown as it stands

        def log(figures: dict, step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        log.close = writer.close
        return log

    return track


@registry.tracker.register("mlflow")
def mlflow(experiment: str = "Default", uri: str | None = None):
    """MLflow (mlflow.org); `uri` is a server or a database (sqlite:///mlflow.db), else MLFLOW_TRACKING_URI is."""
    client = need("mlflow")

    def track(folder: Path, ingredients):
        if uri is not None:
            client.set_tracking_uri(uri)
        client.set_experiment(experiment)
        known = folder / "mlflow.txt"  # the number that MLflow gave to the run, which goes on under it
        run = client.start_run(run_id=known.read_text() if known.is_file() else None, run_name=folder.name)
        if not known.is_file():
            known.write_text(run.info.run_id)
            client.log_params(_flat(ingredients))

        def log(figures: dict, step: int) -> None:
            client.log_metrics(figures, step=step)

        log.close = client.end_run
        return log

    return track


@registry.tracker.register("wandb")
def wandb(project: str, entity: str | None = None, mode: str | None = None):
    """Weights & Biases (wandb.ai), after `wandb login`; mode = offline keeps all of it in the run's folder."""
    client = need("wandb")

    def track(folder: Path, ingredients):
        where = {"project": project, "entity": entity, "mode": mode, "dir": str(folder)}
        run = client.init(**where, id=folder.name, name=folder.name, resume="allow", config=_flat(ingredients))

        def log(figures: dict, step: int) -> None:
            run.log(figures, step=step)

        log.close = run.finish
        return log

    return track


def _flat(ingredients, path: str = "") -> dict:
    """The settings by their dotted names."""
    flat = {}
    for key, value in ingredients.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return flat
