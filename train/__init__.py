"""One epoch of learning: configuration, loop, engine, ledger, optimiser, checkpoints, metrics."""
