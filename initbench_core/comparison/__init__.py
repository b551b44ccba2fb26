"""Two runs of the same experiments, compared: what changed beyond noise, and is any of it a regression?

`sources` finds and checks the runs, `rules` says which direction of a metric is worse, `judgement` compares a metric
within both runs, `between_runs` adds how times drift from run to run, `changes` decides, `limits` tells what could have
been seen, `show` prints. Nothing here writes a file.
"""
