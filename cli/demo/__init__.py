"""The demo: the main job from a model to a fleet, done by driving the other verbs."""
