"""A worker: its step, its clock, its programs, and the state that it carries."""
