"""The link to the microcontroller beside the Linux box."""
