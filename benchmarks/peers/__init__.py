"""The quantizers that asdic is measured against, and the models that they are measured on."""
