"""A small HTTP service over a run: the list of one user, now.

`state` holds a run in memory, `app` answers requests, `limits` bounds how many are answered at a
time, `metrics` counts them, and `server` listens, watches for a new run and stops.
"""
