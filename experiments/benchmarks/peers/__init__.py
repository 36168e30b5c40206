"""Ours beside other systems, on the same steps: each against its own steps without any exchange.

- `case`: what is measured: a model, so many workers, local steps, sleeps of stragglers.
- `in_jax`: `train` under BSP, SSP and ASP, one SPMD program, DrJAX; all on the CPU devices of a
  process.
"""
