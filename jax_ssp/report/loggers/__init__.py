"""Trackers of experiments, each behind a queue so that a slow one never holds a run up.

`ssp.train(..., observers=[ssp.loggers.WandB(project="mine")])`, or in an `Experiment`'s `hooks`.
"""

from jax_ssp.report.loggers.base import Logger as Logger
from jax_ssp.report.loggers.mlflow import MLflow as MLflow
from jax_ssp.report.loggers.wandb import WandB as WandB
