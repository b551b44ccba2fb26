"""Measuring: the one clock, the memory floor, and costs that can be read off a kernel without running it."""
