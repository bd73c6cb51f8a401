"""One way to quantize for each model format."""
