"""
Where the time goes: the operations of one training step of an aligned student, and the modules of the loop that asks a
server for captions. Time of the processor, one thread each.

    python benchmarks/profiles.py

Writes results/profiles.json and docs/images/profiles.png.
"""

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from captioner_under_faults import Server, image_of, photographs
from datasets import disable_progress_bars
from provenance import RESULTS, ROOT, provenance
from step_time import captioned_batch, students, trainer_for
from torch.profiler import ProfilerActivity, profile

from g4i_hf.captioning.answers import Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.options import EndpointArguments

SHOWN = 8
PICTURE = ROOT / "docs" / "images" / "profiles.png"


def training_step(spec: dict, steps: int) -> Counter:
    """Milliseconds a step of each operation itself, without those that it calls."""
    batch = captioned_batch(spec)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(spec, folder, align_loss="clip")

        def step() -> None:
            trainer.training_step(trainer.model, dict(batch))
            trainer.optimizer.step()
            trainer.model.zero_grad()

        for _ in range(2):  # the first ones allocate
            step()
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(steps):
                step()
    return Counter({event.key: event.self_cpu_time_total / 1e3 / steps for event in recorded.key_averages()})


def caption_loop(requests: int) -> Counter:
    """Milliseconds a request of each module, that of the server left out; functions in C by their names."""
    files = photographs()
    with Server(latency=0.05, capacity=64, rate=0.0, kinds="") as server:
        captioner = EndpointCaptioner("tiny", server.url + "/v1", endpoint=EndpointArguments())
        profilers = [cProfile.Profile(time.thread_time)]  # waiting does not count

        def profile_thread(*_) -> None:
            profilers.append(cProfile.Profile(time.thread_time))
            profilers[-1].enable()

        threading.setprofile(profile_thread)
        asked = (
            Question(str(number), {"bytes": image_of(files, number), "path": None}, "Describe it.", str(number))
            for number in range(requests)
        )
        profilers[0].runcall(captioner.run, asked, lambda pairs: None, lambda: True)
        threading.setprofile(None)
    times: Counter = Counter()
    for (file, _, function), (_, _, seconds, _, _) in pstats.Stats(*profilers).stats.items():
        times[module_of(file, function)] += 1e3 * seconds / requests
    return times


def module_of(file: str, function: str) -> str:
    """`.../site-packages/httpx2/_client.py` -> `httpx2`; modules of ours by their whole names."""
    if file == "~":
        return function.strip("<>").replace("method ", "").replace("built-in ", "")
    parts = Path(file).with_suffix("").parts
    if "g4i_hf" in parts:
        return ".".join(parts[len(parts) - 1 - parts[::-1].index("g4i_hf") :])
    for place in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if place in parts:
            return parts[parts.index(place) + 1]
    return parts[-1]


def milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def draw(profiles: dict[str, dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(profiles), 1, figsize=(8, 2.6 * len(profiles)), layout="constrained")
    for axis, (name, found) in zip(axes, profiles.items(), strict=True):
        names, values = zip(*reversed(found["largest"]), strict=True)
        bars = axis.barh(names, [100 * value / found["total_ms"] for value in values], color="#4477aa")
        axis.bar_label(bars, fmt="%.0f%%", padding=3)
        axis.set_title(f"{name}: {milliseconds(found['total_ms'])}", loc="left", fontsize="medium")
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of the small student; a fifth of it of ResNet-50")
    parser.add_argument("--requests", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    found = {
        f"training step, {name}, batch of {spec['batch']}": training_step(
            spec, args.steps if spec["size"] < 100 else max(2, args.steps // 5)
        )
        for name, spec in students().items()
    }
    found["caption loop, a request"] = caption_loop(args.requests)
    profiles = {
        name: {"total_ms": times.total(), "largest": times.most_common(SHOWN)} for name, times in found.items()
    }
    RESULTS.joinpath("profiles.json").write_text(json.dumps(provenance() | {"profiles": profiles}, indent=2) + "\n")
    draw(profiles)
    for name, profiled in profiles.items():
        print(f"{name}: {milliseconds(profiled['total_ms'])}")
        for what, cost in profiled["largest"]:
            print(f"  {100 * cost / profiled['total_ms']:5.1f}%  {what}")


if __name__ == "__main__":
    main()
