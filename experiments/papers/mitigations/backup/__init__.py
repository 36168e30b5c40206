"""Backup workers: iterations and seconds to a target, as fewer are waited for."""
