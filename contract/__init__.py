"""What both ends of the wire agree on: targets, variants, releases, trust, messages and errors."""
