"""Runnable configs; see README.md here."""
