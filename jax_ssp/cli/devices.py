"""`jax-ssp devices`: what JAX sees."""

from __future__ import annotations

import argparse
from typing import Any

from jax_ssp.failures import DONE


def declare(commands: Any) -> None:
    commands.add_parser("devices", help="list the devices JAX sees").set_defaults(command=devices)


def devices(options: argparse.Namespace, rest: list[str]) -> int:
    import jax

    from jax_ssp.placement import Placement
    from jax_ssp.report.tables import print_table

    rows = [
        {
            "id": device.id,
            "platform": Placement.of(device).backend,
            "kind": device.device_kind,
            "process": device.process_index,
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in jax.devices()
    ]
    print_table(rows, title=f"jax {jax.__version__}: {len(rows)} devices")
    print("more of the CPU: `--runtime.cpu-devices N` of a run, or JAX_NUM_CPU_DEVICES=N")
    return DONE
