"""Pure PyTorch: the language model, its layers, context mixing, and the blocks."""
