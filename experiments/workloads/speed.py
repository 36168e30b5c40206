"""How fast a language model was trained: tokens a second, and the share of the devices' peak.

    python -m experiments.workloads.speed RUN

Of a run in virtual time the tokens are of virtual seconds, and there is no share of any device.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax_ssp as ssp
from experiments.workloads.transformer import Shape

# FLOP/s in bfloat16 with dense matrices, as the makers say; by the beginning of the device's kind.
PEAKS = {
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


class Speed(NamedTuple):
    """How fast a run was.

    Attributes:
        tokens_per_second: of all workers, merged.
        utilization: model FLOP utilisation, of the devices' peak (0 to 1); None where that is not
            known, as for CPUs, or time was virtual.
        chips: that the peak is of.
    """

    tokens_per_second: float
    utilization: float | None
    chips: int


def peak_of(kind: str) -> float | None:
    """FLOP/s of a device by its kind, as `jax.Device.device_kind` says it; None if unknown.

    Example:
        >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("TPU v5 lite"), peak_of("cpu")
        (989000000000000.0, 197000000000000.0, None)
    """
    known = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(known, key=len)] if known else None


def speed_of(
    config: Mapping[str, Any], summary: Mapping[str, Any], peak: float | None = None
) -> Speed:
    """The speed of a run, by its `config.json` and `summary.json`.

    Args:
        config, summary: of `ssp.read_run(folder)`.
        peak: FLOP/s of a device; by default that of its kind, if it is known.

    Raises:
        ValueError: if the run trained no such language model.
    """
    workload, runtime = config["experiment"]["workload"], config["experiment"]["runtime"]
    if not isinstance(workload, Mapping) or workload.get("type") != "LM":
        raise ValueError(f"{config.get('file')} did not train `LM`, so its FLOPs are not known.")
    shape = Shape(**{name: each for name, each in workload["shape"].items() if name != "type"})
    workers = -(-summary["num_workers"] // runtime.get("workers_per_device", 1))
    chips = workers * (runtime.get("devices_per_worker") or 1)
    rate, kinds = summary["tokens_per_second"], set(config["environment"]["devices"])
    if peak is None and len(kinds) == 1:
        peak = peak_of(kinds.pop())
    if peak is None or summary["time"] != "wall":
        return Speed(rate, None, chips)
    return Speed(rate, rate * shape.flops_per_token(workload["context"]) / (peak * chips), chips)


def main(words: Sequence[str] | None = None) -> None:
    """Say how fast the language model of a run's folder was trained."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--peak", type=float, help="FLOP/s of a device, if its kind is not known")
    options = parser.parse_args(words)
    run = ssp.read_run(options.run)
    speed = speed_of(run.config, run.summary, options.peak)
    print(f"{speed.tokens_per_second:,.0f} tokens a {run.summary['time']} second")
    if speed.utilization is None:
        print("model FLOP utilisation: not known of this device (--peak FLOPS)")
    else:
        print(f"model FLOP utilisation: {100 * speed.utilization:.1f} % of {speed.chips} devices")


if __name__ == "__main__":
    main()
