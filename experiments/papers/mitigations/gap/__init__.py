"""Gap-Aware against staleness-aware and plain ASGD, as the number of workers grows."""
