"""What a person starts: train, sweep, compress, decompress, evaluate, report."""
