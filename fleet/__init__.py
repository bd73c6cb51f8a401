"""The fleet manager: inventory, releases, rollouts, transfer and the web page."""
