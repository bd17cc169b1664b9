"""Pure PyTorch: the language model, its layers, the n-gram prior, and the blocks."""
