"""Every tolerance of the test suite, each with its reason."""

import torch

# Fused BatchNorm+ReLU against the float64 reference: largest error over the largest expected magnitude.
# float32: sums of up to 1e5 terms by a tree of float32 additions lose a few units of 6e-8; measured up to 7e-7.
# float16 and bfloat16: the arithmetic is float32, only the result is rounded, by half a unit in the last place
# (2**-11 and 2**-8 of it, relative); twice that allows for a result that falls on the other side of a tie.
FUSED_RELATIVE = {torch.float32: 2e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}

# Per-channel sums and statistics stay float32 whatever the input; sums that nearly cancel keep the error of their
# terms, so the bound is wider than that of single elements. Measured up to 4e-6 (a mean of 3,000 values near zero).
STATISTICS_RELATIVE = 1e-5

# mean / std = 1e4: float32 stores x itself with an error of 5e-4 standard deviations and the mean with as much again.
LARGE_MEAN_ABSOLUTE = 2e-3

# Two correct float32 implementations in PyTorch that sum in different orders (eager BatchNorm against the formula).
EAGER = {"rtol": 1e-4, "atol": 1e-5}

# The same PyTorch kernels in another order of the same calls: equal bit by bit.
EXACT = {"rtol": 0.0, "atol": 0.0}
