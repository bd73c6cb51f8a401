"""Real things that tests start: models, brokers, boxes, fleets."""
