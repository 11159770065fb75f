"""dlref compared with a plain loop on this machine, run in turn: python scripts/benchmark.py NAME [--repeats 3].

Ours is `dlref train`, timed by its own log without the first lines, or, of word vectors, as a whole; the peer is
scripts/peers/, unchanged. Each repeat runs the peer, ours, and, where ours would use half precision, ours at the peer's
full one. The last line is one JSON object of the medians and their ratios. Leave the machine alone meanwhile.
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
from dlref.training.precision import resolve

HERE = Path(__file__).parent
MLP = ["model=mlp", "data=mnist", "data.batch_size=128", "optimizer=adam", "optimizer.lr=1e-3", "schedule=constant"]
SINGLE = "trainer.precision=float32"  # also where the CPU has bfloat16
DQN = ["model=dqn", "schedule=constant", "trainer.clip_norm=null", "threads=1", "trainer.max_steps=4000", SINGLE]
LOOP = [
    "optimizer.lr=2.5e-4",
    "data.buffer_size=10000",
    "data.learning_starts=2000",
    "data.exploration_steps=20000",
    "data.final_epsilon=0.05",
]
SB3 = ["data.buffer_size=100000", "data.learning_starts=1024", "data.exploration_steps=8000", "data.final_epsilon=0.04"]


ENGLISH, PTB = "{data}/english_mix/english_mix.txt.gz", "{data}/ptb/ptb.train.txt"
EPOCHS = 5


class Benchmark(NamedTuple):
    unit: str
    settings: list[str]  # of dlref train
    peer: list[str]  # its file and arguments
    corpus: str | None = None  # whose words are counted over a whole run, which is then evaluated


def words(corpus: str, *more: str) -> Benchmark:
    """gensim with two workers, and ours with two threads, learn from all of a corpus, and are asked what is alike."""
    settings = ["model=word2vec", "data=text_word2vec", f"data.train={corpus}", f"data.eval={corpus}", "threads=2"]
    settings += ["network.width=100", f"trainer.max_epochs={EPOCHS}", "objective.subsample=1e-4", *more]
    settings += ["optimizer=sgd_rows", "data.batch_size=32"]
    return Benchmark(
        "words", settings, ["gensim_skip_gram.py", corpus, "2", str(EPOCHS), "{data}/word_similarity", "{seed}"], corpus
    )


LSTM_LM = [
    "model=lstm_lm",
    "data=ptb",
    "network.width=200",
    "network.layers=2",
    "network.tied=false",
    "network.sparse=true",
    "network.dropout=0.2",
]

BENCHMARKS = {
    "mlp": Benchmark(
        "samples",
        [*MLP, "network.widths=[1000,1000]", "threads=2", "trainer.max_steps=400"],
        ["mlp.py", "{data}/mnist"],
    ),
    "mlp_small": Benchmark(
        "samples",
        [*MLP, "network.widths=[50]", "threads=1", "trainer.max_steps=4000", SINGLE],
        ["mlp.py", "{data}/mnist", "50"],
    ),
    # The peers' networks, batches and updates for each environment step; many environments take theirs together.
    "dqn": Benchmark(
        "steps",
        [
            *DQN,
            *LOOP,
            "data.envs=160",
            "data.env_steps_per_update=10",
            "data.batch_size=128",
            "objective.target_update_interval=50",
        ],
        ["dqn.py", "20000"],
    ),
    "dqn_sb3": Benchmark(
        "steps",
        [
            *(*DQN, *SB3, "network.widths=[256,256]", "optimizer.lr=2.3e-3", "objective.target_update_interval=128"),
            *("data.envs=64", "data.env_steps_per_update=2", "data.batch_size=64"),
        ],
        ["dqn_sb3.py", "8192"],
    ),
    "lstm_lm": Benchmark(
        "tokens",
        [
            *(*LSTM_LM, "optimizer=sgd", "optimizer.lr=20", "schedule=constant", "trainer.clip_norm=0.25"),
            *("data.batch_size=20", "data.seq_len=35", "threads=2", "trainer.max_steps=400"),
        ],
        ["lstm_lm.py", "{data}/ptb/ptb.train.txt", "100"],
    ),
    "transformer_lm": Benchmark(
        "tokens",
        [
            *(
                "model=transformer_lm",
                "data=tiny_shakespeare",
                "data.order=shuffled",
                "data.seq_len=64",
                "data.batch_size=12",
            ),
            *("network.layers=4", "network.positions=learned", "network.norm=layer", "network.activation=gelu"),
            *(
                "network.qk_norm=false",
                "network.zero_init=false",
                "network.dropout=0",
                "trainer.compile=true",
                "threads=2",
            ),
            *("optimizer=adamw", "optimizer.weight_decay=0.1", "schedule=cosine", "trainer.max_steps=1000"),
        ],
        ["transformer_lm.py", "{data}/tiny_shakespeare/input.txt", "300"],
    ),
    "transformer": Benchmark(
        "tokens",
        [
            *(
                "model=transformer",
                "data=multi30k",
                "data.level=english",
                "data.batch_size=128",
                "objective.label_smoothing=0.1",
            ),
            *("network.width=256", "network.layers=3", "network.heads=8", "network.hidden=512", "network.dropout=0.1"),
            *("network.prenorm=false", "optimizer.lr=5e-4", "schedule=constant", "threads=2", "trainer.max_steps=100"),
        ],
        ["translation.py", "{data}/multi30k", "30"],
    ),
    "word2vec": words(ENGLISH, "optimizer.lr=1600", "objective.shared_negatives=38"),
    # A third of the words, a third of the steps, which may be longer; <unk> is a word there, for the peer too.
    "word2vec_ptb": words(PTB, "optimizer.lr=2667", "optimizer.max_row_norm=1", "objective.unk_id=null"),
}


def ours(benchmark: Benchmark, precision: str, seed: int) -> dict[str, float]:
    """Units a second over the second half of a run, or words a second over all of it and what `dlref evaluate` says."""
    settings = [part.format(data=data_root(None)) for part in benchmark.settings]
    quiet = ["trainer.eval_every=null", "trainer.save_every=null", "trainer.monitor=null"]
    if benchmark.corpus is None:
        steps = int(next(s for s in settings if s.startswith("trainer.max_steps=")).partition("=")[2])
        quiet += [f"trainer.log_every={steps // 20}", "reports=null"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        dlref = [sys.executable, "-m", "dlref"]
        typed = [*settings, *quiet, f"trainer.precision={precision}", f"seed={seed}", f"run_dir={run}"]
        output([*dlref, "train", *typed])
        if benchmark.corpus is not None:
            output([*dlref, "evaluate", str(run), *(s for s in settings if s.startswith(("data.train", "data.eval")))])
            seconds = json.loads((run / "run.json").read_text(encoding="utf-8"))["seconds"]
            return {"seconds": seconds} | json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["metrics"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line[f"{benchmark.unit}_per_second"] for line in lines if line["split"] == "train"]
    return {"value": statistics.median(speeds[len(speeds) // 2 :])}


def peer(benchmark: Benchmark, seed: int) -> dict[str, Any]:
    file, *arguments = [part.format(data=data_root(None), seed=seed) for part in benchmark.peer]
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
        peers.append(peer(benchmark, repeat + 1))
        same.append(ours(benchmark, "float32", repeat))
        best.append(ours(benchmark, "auto", repeat) if fast != "float32" else same[-1])
        for run in (same[-1], best[-1]):  # of the words that the peer counts, without ends of lines
            if "seconds" in run:
                run["value"] = EPOCHS * peers[-1]["words"] / run["seconds"]
        said = f"peer {peers[-1]['value']:,.0f}, ours {best[-1]['value']:,.0f} ({fast}), {same[-1]['value']:,.0f} (float32)"
        print(f"repeat {repeat + 1}: {said}", file=sys.stderr)
    theirs, mine, equal = (statistics.median(run["value"] for run in runs) for runs in (peers, best, same))
    result: dict[str, Any] = {
        "name": arguments.name,
        "unit": f"{benchmark.unit}/s",
        "ours": round(mine),
        "peer": round(theirs),
        "ratio": round(mine / theirs, 2),
        "ratio_same_precision": round(equal / theirs, 2),
        "repeats": arguments.repeats,
    }
    if "bare" in peers[0]:
        bare = statistics.median(p["bare"] for p in peers)
        result |= {"bare": round(bare), "ratio_bare": round(equal / bare, 2)}
    for name in ("wordsim353", "simlex999"):
        if name in peers[0]:
            for whose, runs in (("ours", best), ("float32", same), ("peer", peers)):
                result[f"{name}_{whose}"] = [round(run[name], 3) for run in runs]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
