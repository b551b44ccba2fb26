"""initbench: the benchmark suite for weight initialization and batch normalization in PyTorch."""

__version__ = "0.1.0"
