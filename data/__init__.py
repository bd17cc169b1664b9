"""Documents, tokenizers, token shards, lanes."""
