"""The benchmark that runs on the device and on the server alike."""
