"""The cost of a whole network's tokens in parts only where all logits would take too much of a GPU's memory."""

from model.network_parts import NetworkInParts


class Network(NetworkInParts):
    # As in model/cuda/lm.py.
    part_logits = 1 << 29
