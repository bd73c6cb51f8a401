"""What runs on the box: the runner, the agent, the store and the benchmark."""
