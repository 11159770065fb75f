"""What a token costs the Transformer language model with its keys and values kept, at two positions, and without them:
python scripts/generation_cost.py. The last line is one JSON object, in ms a token. Leave the machine alone meanwhile."""

import json
import statistics
import time

import torch

from dlref.models.transformer_lm import TransformerLM

POSITIONS, TOKENS, REPEATS = (100, 1000), 32, 5


def main() -> None:
    torch.set_num_threads(2)
    net = TransformerLM(vocab_size=67, context=2048, width=256, layers=6, heads=4).eval()
    text = torch.randint(67, (1, max(POSITIONS) + TOKENS))
    times: dict[str, list[float]] = {}
    with torch.inference_mode():
        for _ in range(REPEATS):  # in turn, so that all meet the same machine
            for position in POSITIONS:
                state, begun = net.prefill(text[:, :position]), time.perf_counter()
                for token in text[:, position : position + TOKENS].T:
                    _, state = net.step(state, token)
                times.setdefault(f"kept_{position}", []).append((time.perf_counter() - begun) / TOKENS)
                begun = time.perf_counter()
                net(text[:, :position])
                times.setdefault(f"anew_{position}", []).append(time.perf_counter() - begun)
    found = {name: round(1000 * statistics.median(values), 3) for name, values in times.items()}
    ratio = found[f"kept_{POSITIONS[1]}"] / found[f"kept_{POSITIONS[0]}"]
    print(json.dumps({"name": "generation_cost", "unit": "ms/token", **found, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
