"""From a float model to a variant for each target, with a report and a verdict."""
