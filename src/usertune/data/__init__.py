"""From raw data to canonical samples: readers of raw formats, and the checks that every sample must pass."""
