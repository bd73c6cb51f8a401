"""Data, models, fitting, evaluation and export."""
