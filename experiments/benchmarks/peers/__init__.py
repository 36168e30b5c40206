"""Ours beside other systems, on the same steps: each against its own steps without any exchange.

- `case`: what is measured: a model, so many workers, local steps, sleeps of stragglers.
- `in_jax`: `train` under BSP, SSP and ASP, one SPMD program, DrJAX; all on the CPU devices of a
  process.
- `in_torch`, `torch_worker`: PyTorch's DDP and averager, torchft's LocalSGD; a process a worker.
- `in_ray`: a parameter server of Ray actors, and `train` on Ray; an actor a worker.
- `page`: the tables of the page in docs.
"""
