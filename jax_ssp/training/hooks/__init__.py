"""Observers that watch the parameters of a run: one idea a file, each a few lines on `Observer`."""

from jax_ssp.training.hooks.best import Best as Best
from jax_ssp.training.hooks.early_stop import EarlyStop as EarlyStop
from jax_ssp.training.hooks.ema import Ema as Ema
