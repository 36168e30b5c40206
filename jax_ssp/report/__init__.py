"""What people and other programs see of a run: progress, metrics, plots, tables."""
