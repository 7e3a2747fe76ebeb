"""Maximum flow through six layers of 77 times, every pair, on one core.

python -m benchmarks.flow
"""

from __future__ import annotations

import time

import numpy as np

from laglens.flow.layers import Mixing
from laglens.flow.maximum import maximum_flows, widest_paths

LAYERS, HEADS, TIMES = 6, 4, 77


def main() -> None:
    """Print CPU seconds for maps from near uniform to sharp."""
    rng, tokens = np.random.default_rng(0), np.arange(TIMES)
    print(f"\nMaximum flow: {LAYERS} layers, {TIMES} x {TIMES} pairs of times\n")
    print("spread of logits   maximum flow   widest paths")
    for spread in (0.5, 3.0):
        weights = np.exp(spread * rng.standard_normal((LAYERS, HEADS, TIMES, TIMES)))
        steps = [Mixing().step(heads / heads.sum(-1, keepdims=True)) for heads in weights]
        started = time.process_time()
        maximum_flows(steps, tokens, tokens)
        flow = time.process_time()
        widest_paths(steps)
        print(f"{spread:16.1f}   {flow - started:10.1f} s   {time.process_time() - flow:10.2f} s")


if __name__ == "__main__":
    main()
