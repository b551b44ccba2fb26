"""Every tolerance of the test suite, each with its reason."""

import torch

# The notebook's two stalled losses are printed to four decimals, and are met digit by digit.
NOTEBOOK_STALLED = 5e-5
# Its BatchNorm losses are met within 0.006 only: rounding differs between thread counts and is amplified over 2,000
# steps (two thread counts differ from each other by 0.005).
NOTEBOOK_BATCH_NORM = 0.006

# Hand-written against native BatchNorm: two float32 summation orders.
HANDWRITTEN = {"rtol": 1e-5, "atol": 2e-6}

# Gaussian moments by quadrature against closed forms: float64, 400 nodes.
QUADRATURE = 1e-9

# Five standard errors of a variance over 50,000 entries, normal (the widest of our distributions): 5 sqrt(2 / 50,000).
MOMENT_RATIO = 0.032

# Geometric factor per layer over 49 layers and 40 networks of width 100: its standard error is 0.0033, and it lies
# 0.025 below D s^2 / 2 because E log < log E.
PER_LAYER_FACTOR = 0.045

# rho holds for infinite width; at width and batch 512 measurements stay within 4% (SiLU settles slowly).
RHO_RELATIVE = 0.04

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

# Random fills. Inverse CDF of float32 against scipy in float64: AS 241's PPND7 is good to 1e-7, and a dozen roundings
# of 6e-8 each follow; measured up to 5e-7.
QUANTILE_RELATIVE = 1e-6
# Near the median the tail's probability, at most 1/2, has a step of 2^-26..2^-25, and the density there is 0.4.
QUANTILE_ABSOLUTE = 1e-7

# Statistics of 1e7 values: a test fails by chance once in 1e6 seeds; the seeds are fixed, so it never flickers.
CHANCE = 1e-6
SIGMAS = 4.9  # two-sided normal quantile of CHANCE

# The sample standard deviation of 18,000 values or more: relative error 1 / sqrt(2 n) = 0.5%, five times that.
SAMPLE_STD_RELATIVE = 0.027
# Float64 orthogonal matrices rounded to float32: sums of 30 products with an error of 6e-8 each, at a gain^2 of 2.8.
ORTHOGONAL_ABSOLUTE = 3e-6

# One network in a stack of several against the same network alone: float32 sums in another order, amplified over a
# few dozen steps of training. Measured up to 2e-6.
TOGETHER_RELATIVE = 1e-4
TOGETHER_ABSOLUTE = 1e-6

# Textbook values printed to four decimals.
PRINTED_FOUR = 5.1e-5
# Coverage of a 95% interval over 200 simulated studies: standard error 0.015. The bootstrap of 5 seeds, expanded, has
# 0.92 of normal means (0.85 as it comes), for it cannot leave the range of the values.
COVERAGE = 0.06

# ReLU homogeneity in float64: 12 layers of sums of 40 products, each rounded to 1e-16; measured up to 2e-15.
HOMOGENEITY = 1e-12
# Products of 50 orthogonal matrices in float64: rounding adds up to 2e-15 (measured).
ISOMETRY = 1e-14
# BatchNorm's scale invariance in float64: measured up to 1e-14, over scales from 1e-3 to 1e4.
SCALE_INVARIANCE = 1e-12
# Cosine after ReLU layers of width 512: the population's map at finite width is biased by a few 1 / 512.
CORRELATION_BIAS = 0.01
# Second moments through residual blocks of width 512: measured 1% to 3% from theory, over 12 blocks.
RESIDUAL_RELATIVE = 0.06
# Mean field holds for infinite width: at 512, over 5 networks of 12 layers, its variances and factors were met within
# 2% (biases are shared by all inputs, so that variances scatter by their finite number).
MEAN_FIELD = 0.03
# (B - 2) / (B - 3) is for infinite width: at 512, batches of 8 and 16, measured up to 0.5% from it.
SMALL_BATCH = 0.015

# Factors per layer of one network of width 256 against mean-field theory for its own weights. At finite width they
# scatter: the logarithm has a standard deviation of sqrt(5 / 256) = 0.14 per ReLU layer and a mean of -0.01, which a
# line through 10 to 60 layers turns into 2% to 5%; measured within 4%. With BatchNorm the theory holds where samples
# have become independent; the first layers, which see the data's own correlations, bring up to 8%.
PROBE_PLAIN = 0.06
PROBE_BATCH_NORM = 0.12
# The same at width 100 over 20 layers: log factors scatter by sqrt(5 / 100) = 0.22 per layer, and a line through 20 of
# them by about 0.05 (measured over 100 networks: 0.84 to 1.10 times theory; the seed of the test: up to 7%).
DEPTH_20_FACTOR = 0.12
# Second moments of 24 padded CNNs of 64 channels over 5 layers: the mean has a standard error of up to 0.07 forward and
# 0.03 backward, measured within 0.08; the factor per layer of one network scatters by 0.03.
PADDED = 0.1
