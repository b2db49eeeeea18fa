"""The requests of the transparency test, as bytes: one table for each subject."""
