"""The worlds a run can live in."""
