"""What the numbers mean: description length, code size, baselines, reports."""
