"""From a float model of any kind to the float file of one format."""
