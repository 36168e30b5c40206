"""Sweeps: `study` runs them, `outcome` makes a run a row, `grid` is the command of configs."""
