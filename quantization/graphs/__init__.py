"""A look into the files of a model, float or INT8: one view for each format."""
