"""A run of MLflow: the spec as parameters, the metrics, and the files of the package as artifacts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nas.core.errors import InvalidInput
from nas.core.model_package import ModelPackage
from nas.core.plugins import Exporter
from nas.exporters.flat_spec import device_name, parameters

EXPERIMENT = "hwnas"
_LONGEST = 500  # characters of a parameter


def export(package: ModelPackage, target: str) -> str:
    """Log a run to the tracking server or store at ``target``, such as http://127.0.0.1:5000 or sqlite:///runs.db."""
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise InvalidInput("the exporter mlflow needs MLflow: pip install mlflow-skinny, or mlflow") from error
    try:
        client = MlflowClient(tracking_uri=target)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(EXPERIMENT)
        tags = {"mlflow.runName": package.manifest["architecture"], "hwnas.device": device_name(package)}
        run = client.create_run(experiment_id, tags=tags)
        for name, text in parameters(package).items():
            client.log_param(run.info.run_id, name, text[:_LONGEST])
        for name, value in package.values.items():
            client.log_metric(run.info.run_id, name, value)
        _log_files(client, run.info.run_id, package)
        client.set_terminated(run.info.run_id)
    except (MlflowException, OSError) as error:
        raise InvalidInput(f"MLflow at {target!r} (mlflow {mlflow.__version__}): {error}") from error
    return f"run {run.info.run_id} of experiment {EXPERIMENT} at {target}"


def _log_files(client: object, run_id: str, package: ModelPackage) -> None:
    from mlflow.tracking import MlflowClient

    assert isinstance(client, MlflowClient)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in package.files.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run_id, folder)


MLFLOW = Exporter("mlflow", "A run of MLflow with parameters, metrics and files.", "a tracking URI", export)
