"""One file for each axis of parallelism; none knows a model."""
