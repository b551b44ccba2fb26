"""The suite of airspeed velocity (`asv run`): what a commit costs in time, memory, registers, bytes and training steps.

asv imports every module here, in a process of its own, and one failing import stops the suite; hence each benchmark
imports the project where it uses it, and no test lives here.

Three rules. Lower is better, always. What a machine or an old commit cannot run is n/a (NotImplementedError in
`setup`), not a failure. The name of a method tells how far its number can be trusted: `track_exact_*` are counts that
repeat to the last digit, `time_*`, `timeraw_*`, `track_cuda_*` and `peakmem_*` have a noise; `asv.conf.json` holds the
thresholds of each kind.
"""
