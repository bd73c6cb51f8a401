"""The front door: one light file a verb; heavy imports happen inside the function."""
