"""Models and data that configs share."""
