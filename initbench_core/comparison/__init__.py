"""Two runs of the same experiments, compared: what changed beyond noise, and is any of it a regression?

`sources` finds and checks the runs, `rules` says which direction of a metric is worse, `changes` decides, `show`
prints. Nothing here writes a file.
"""
