"""Run all benchmarks: print and write reports/benchmarks.json (`make bench`)."""

from __future__ import annotations

import os

import torch

from benchmarks import quality, scenes, tiling, training
from benchmarks.effort import greenland_estimate
from glacier_utils.files import write_json
from glacier_utils.workflow import runs


def main() -> None:
    figures = {
        "processor_features": ", ".join(
            sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **training.training(),
        **quality.quality(),
        **scenes.scenes(),
        **tiling.tiling(),
    }
    estimate = greenland_estimate(figures, cores=figures["threads"])
    figures["greenland_hours_one_worker"] = round(estimate.table["hours"].iloc[0], 1)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(estimate.sentence)
    print(write_json(runs.project_root() / "reports" / "benchmarks.json", figures))


if __name__ == "__main__":
    main()
