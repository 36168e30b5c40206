"""A run as its user sees it: `train`, its result, and experiments."""
