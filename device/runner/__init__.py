"""A loaded model behind one small interface, and the pre- and postprocessing around it."""
