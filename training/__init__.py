"""Data, models, fitting, evaluation and export."""

import os

# OpenMP's threads spin while they wait for each other, so on a machine that does anything else
# they burn the time of the one that works: fitting beside one other process took 5 times as long.
# It has to be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
