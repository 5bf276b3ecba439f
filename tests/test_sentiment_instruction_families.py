"Sentiment and instruction maps on every family: right shape, finite or missing, the same alone and in a batch."
from pathlib import Path

import numpy as np
import pytest

from attn_lit import instruction, sentiment
from attn_lit.models import FAMILIES, Parts, load_model, load_tokenizer, model_source, random_model

STORIES = Path(__file__).resolve().parent.parent.parent/"shared/data/models/stories260K"


@pytest.fixture(scope="module")
def tokenizer(): return load_tokenizer(model_source("tiny"))


def check(result, model, n_items, largest=1.):
    "A result's maps have the model's shape, and numbers or NaN within bounds."
    shape = Parts(model).n_layers, Parts(model).n_heads
    assert result.effect.shape == shape and result.scores.shape == (n_items, *shape)
    assert np.isfinite(result.effect).any() and not np.isinf(result.scores).any()
    assert np.nanmax(np.abs(result.effect)) <= largest
    assert len(result.to_frame()) == result.effect.size and result.provenance


@pytest.mark.parametrize("family", FAMILIES)
def test_sentiment_on_every_family(family, tokenizer):
    model = random_model(family, vocab=len(tokenizer))
    texts, labels = [*sentiment.SENTIMENT_TEXTS[:12], "No such word."], [*sentiment.SENTIMENT_LABELS[:12], 1]
    result = sentiment.head_scores(texts, labels, tokenizer, model, n=200)
    check(result, model, 13)
    assert sum(result.dropped.values()) == 1 and np.isnan(result.scores[-1]).all()
    for control in result.controls.values(): check(control, model, 13)
    assert set(result.controls) | set(result.no_control) == {
        "pseudo-keywords", "punctuation", "shuffled labels", "random weights"}


@pytest.mark.parametrize("family", FAMILIES)
def test_instruction_on_every_family(family, tokenizer):
    model = random_model(family, vocab=len(tokenizer))
    some = slice(0, 24, 4)
    result = instruction.head_scores(tokenizer, model, instruction.INSTRUCTIONS[some], instruction.PLAIN[some], n=200)
    check(result, model, 6)
    for control in result.controls.values(): check(control, model, 6, largest=2.)
    turned = instruction.head_scores(tokenizer, model, instruction.PLAIN[some], instruction.INSTRUCTIONS[some],
                                     controls=False)
    np.testing.assert_allclose(turned.scores, -result.scores, atol=1e-5)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not beside this checkout (../shared/data/models)")
def test_both_on_a_real_llama():
    tokenizer, model = load_model(str(STORIES), device="cpu")
    texts, labels = sentiment.SENTIMENT_TEXTS, sentiment.SENTIMENT_LABELS
    check(sentiment.head_scores(texts, labels, tokenizer, model), model, len(texts))
    pairs = instruction.head_scores(tokenizer, model)
    check(pairs, model, len(instruction.PAIRS))
    assert not pairs.dropped


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not beside this checkout (../shared/data/models)")
def test_a_keyword_that_opens_a_text_counts_after_a_bos():
    "This tokenizer writes a BOS, so the first word is not on the first token and is kept."
    tokenizer, model = load_model(str(STORIES), device="cpu")
    texts = [f"{word} was the day in the {place}." for word in ("Good", "Bad") for place in ("wood", "town", "sea")]
    result = sentiment.head_scores(texts, [1, 1, 0, 0, 1, 0], tokenizer, model)
    assert not any(result.dropped.values()) and np.isfinite(result.scores).all()
