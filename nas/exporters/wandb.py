"""A run of Weights & Biases: the spec as configuration, the metrics as summary, and the package's files as artifact.

How a run is stored follows the library's own settings: with ``WANDB_MODE=offline`` it is a folder of ``WANDB_DIR``,
which ``wandb sync`` sends later.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from nas.core.errors import InvalidInput
from nas.core.model_package import ModelPackage
from nas.core.plugins import Exporter
from nas.exporters.flat_spec import device_name, parameters


def export(package: ModelPackage, target: str) -> str:
    """Log a run to the project ``target``, such as hwnas or my-team/hwnas."""
    try:
        import wandb
    except ImportError as error:
        raise InvalidInput("the exporter wandb needs Weights & Biases: pip install wandb") from error
    entity, _, project = target.rpartition("/")
    architecture = str(package.manifest["architecture"])
    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
    try:
        run = wandb.init(
            project=project,
            entity=entity or None,
            name=architecture,
            job_type="export",
            tags=[device] if (device := device_name(package)) else None,
            config=parameters(package),
            settings=quiet,
        )
        with run, tempfile.TemporaryDirectory() as folder:
            run.summary.update(dict(package.values))
            artifact = wandb.Artifact(f"network-{architecture}", type="model")
            for name, content in package.files.items():
                (Path(folder) / name).write_bytes(content)
            artifact.add_dir(folder)
            run.log_artifact(artifact)
    except (wandb.Error, OSError) as error:
        raise InvalidInput(
            f"Weights & Biases, project {target!r} (wandb {wandb.__version__}): {error}. Set WANDB_API_KEY to log in, "
            "or WANDB_MODE=offline to write the run to a folder"
        ) from error
    if run.offline:
        return f"run {run.id} of project {target}, offline: wandb sync {Path(run.dir).parent}"
    return f"run {run.id} of project {target}: {run.url}"


WANDB = Exporter("wandb", "A run of Weights & Biases with configuration, metrics and files.", "a project", export)
