"""What the numbers mean: description length, code size, baselines, scaling, reports."""
