"""What people bring: one reader for each kind of model."""
