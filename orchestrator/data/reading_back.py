"""What a model generates, back in the form that the data had."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.data.prepared import Prepared


def decode_text(prepared: Prepared, tokens: Sequence[int]) -> str:
    """Tokens as text, by the run's tokenizer; as numbers where the data came tokenized already."""
    definition = prepared.preparation.get("tokenizer")
    if definition is None:
        return " ".join(str(int(token)) for token in tokens)
    from orchestrator.data.preparations.tokenizers import tokenizer_from_json

    return tokenizer_from_json(definition).decode([int(token) for token in tokens])
