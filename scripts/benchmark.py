"""Ours beside a plain loop on this machine, run in turn: python scripts/benchmark.py NAME [--repeats 3].

Ours is `dlref train`, timed by its own log without the first lines; the peer is scripts/peers/, unchanged. Each repeat runs
the peer, ours, and, where ours would use half precision, ours at the peer's full one. The last line is one JSON object of
the medians and their ratios. Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dlref.data.download import data_root
from dlref.training.devices import resolve

HERE = Path(__file__).parent
MLP = ["model=mlp", "data=mnist", "data.batch_size=128", "optimizer=adam", "optimizer.lr=1e-3", "schedule=constant"]
SINGLE = "trainer.precision=float32"  # also where the CPU has bfloat16
DQN = ["model=dqn", "schedule=constant", "trainer.clip_norm=null", "threads=1", "trainer.max_steps=4000", SINGLE]
LOOP = [
    "optimizer.lr=2.5e-4",
    "data.replay=10000",
    "data.warmup_steps=2000",
    "data.explore_steps=20000",
    "data.epsilon=0.05",
]
SB3 = ["data.replay=100000", "data.warmup_steps=1024", "data.explore_steps=8000", "data.epsilon=0.04"]


class Benchmark(NamedTuple):
    unit: str
    settings: list[str]  # of dlref train
    peer: list[str]  # its file and arguments


BENCHMARKS = {
    "mlp": Benchmark(
        "samples",
        [*MLP, "network.widths=[1000,1000]", "threads=2", "trainer.max_steps=400"],
        ["mlp.py", "{data}/mnist"],
    ),
    "mlp_small": Benchmark(
        "samples",
        [*MLP, "network.widths=[50]", "threads=1", "trainer.max_steps=4000"],
        ["mlp.py", "{data}/mnist", "50"],
    ),
    # The peers' networks, batches and updates for each environment step; many environments take theirs together.
    "dqn": Benchmark(
        "steps",
        [*DQN, *LOOP, "data.envs=160", "data.play_steps=10", "data.batch_size=128", "objective.copy_every=50"],
        ["dqn.py", "20000"],
    ),
    "dqn_sb3": Benchmark(
        "steps",
        [
            *(*DQN, *SB3, "network.widths=[256,256]", "optimizer.lr=2.3e-3", "objective.copy_every=128"),
            *("data.envs=64", "data.play_steps=2", "data.batch_size=64"),
        ],
        ["dqn_sb3.py", "8192"],
    ),
}


def ours(benchmark: Benchmark, precision: str) -> float:
    """Units a second over the second half of a run."""
    steps = int(next(s for s in benchmark.settings if s.startswith("trainer.max_steps=")).partition("=")[2])
    quiet = [f"trainer.log_every={steps // 20}", "trainer.eval_every=null", "trainer.save_every=null", "reports=null"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "dlref", "train", *benchmark.settings, *quiet, "trainer.monitor=null"]
        output([*command, f"trainer.precision={precision}", f"run_dir={run}"])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line[f"{benchmark.unit}_per_second"] for line in lines if line["split"] == "train"]
    return statistics.median(speeds[len(speeds) // 2 :])


def peer(benchmark: Benchmark) -> dict[str, Any]:
    file, *arguments = [part.format(data=data_root(None)) for part in benchmark.peer]
    return json.loads(output([sys.executable, str(HERE / "peers" / file), *arguments]).splitlines()[-1])


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"benchmark.py: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    benchmark = BENCHMARKS[arguments.name]
    fast = "float32" if SINGLE in benchmark.settings else resolve("auto", torch.device("cpu"))
    peers, best, same = [], [], []
    for repeat in range(arguments.repeats):
        peers.append(peer(benchmark))
        same.append(ours(benchmark, "float32"))
        best.append(ours(benchmark, "auto") if fast != "float32" else same[-1])
        said = f"peer {peers[-1]['value']:,.0f}, ours {best[-1]:,.0f} ({fast}), {same[-1]:,.0f} (float32)"
        print(f"repeat {repeat + 1}: {said}", file=sys.stderr)
    theirs = statistics.median(p["value"] for p in peers)
    result = {
        "name": arguments.name,
        "unit": f"{benchmark.unit}/s",
        "ours": round(statistics.median(best)),
        "peer": round(theirs),
        "ratio": round(statistics.median(best) / theirs, 2),
        "ratio_same_precision": round(statistics.median(same) / theirs, 2),
        "repeats": arguments.repeats,
    }
    if "bare" in peers[0]:
        bare = statistics.median(p["bare"] for p in peers)
        result |= {"bare": round(bare), "ratio_bare": round(statistics.median(same) / bare, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
