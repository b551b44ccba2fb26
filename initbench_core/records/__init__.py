"""Records: what a trial measured, as strict JSON lines that survive a crash.

One line is one trial, so that a trial is recorded whole or not at all; `frame.tidy` turns lines into one row a number.
Everything else (tables, figures, reports) is derived from these files and can be rebuilt.
"""
