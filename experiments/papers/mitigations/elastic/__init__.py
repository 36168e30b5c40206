"""Elastic averaging (EASGD) against DOWNPOUR, as exchanges become rare."""
