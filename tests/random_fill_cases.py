"""What the tests of the fills share: a seed, dtypes, and fills to try. Free of hypothesis: GPU machines may lack it."""

import math

import torch

SEED = 0xFEDCBA9876543210
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# One set of numbers for every distribution.
ROWS = {
    "uniform": {"low": -0.3, "high": 0.1},
    "normal": {"mean": 0.1, "std": 0.02},
    "truncated_normal": {"std": 0.02, "a": -0.04, "b": 0.04},
    "constant": {"value": 0.1},
}
# The same, and a truncated normal's tails, each as distribution and numbers.
CASES = {name: (name, numbers) for name, numbers in ROWS.items()} | {
    "tail": ("truncated_normal", {"a": 5.0, "b": 6.0}),
    "far tail": ("truncated_normal", {"a": -math.inf, "b": -9.0}),
}
