"""Every fault that the device must survive, tried point by point: ``python -m tests.faults``."""
