"""One training step, and everything around it: optimizer, precision, ramps, files of a run."""
