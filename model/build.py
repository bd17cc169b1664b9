"""Which model a configuration names."""

from typing import Any

from model.lm import LanguageModel


def build_model(config: Any, vocabulary: int) -> Any:
    """The LanguageModel of a configuration, or its Network or Mixture, which are used in the same way."""
    if config.network:
        from model.network import Network

        return Network(config, vocabulary)
    if "|" in config.block:
        from model.mixture import Mixture

        return Mixture(config, vocabulary)
    return LanguageModel(config, vocabulary)
