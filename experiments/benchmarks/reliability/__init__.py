"""What a run survives: simulated seeds, faults, kills, damaged files, and what it costs."""
