"""The update on the device: trust, transfer, store, gate and the state machine."""
