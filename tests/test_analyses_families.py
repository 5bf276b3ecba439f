"Entropy, bias and patterns on ten families with random weights, and on a real model of the Llama architecture."
from pathlib import Path

import numpy as np
import pytest

from attn_lit import bias, entropy, patterns
from attn_lit.models import FAMILIES, Parts, load_model, random_model
from attn_lit.reference import windows

STORIES = Path(__file__).resolve().parents[2]/"shared/data/models/stories260K"
TEXTS = ["The fox ran.", "Anna threw the ball over the wall, and the ball fell into the garden."]


@pytest.fixture(scope="module")
def tokenizer(): return load_model("tiny")[0]


def check_map(result, model, low=0., high=1.):
    "A finite number in `low` … `high` for every head, and it is the mean of what the scores say."
    assert result.effect.shape == (Parts(model).n_layers, Parts(model).n_heads)
    assert result.scores.shape[1:] == result.effect.shape
    assert np.isfinite(result.effect).all() and (result.effect >= low).all() and (result.effect <= high + 1e-6).all()
    assert len(result.to_frame()) == result.effect.size and result.provenance["model_class"] == type(model).__name__


def check_entropy(tokenizer, model):
    for normalize in (False, True):
        for skip_first in (False, True):
            check_map(entropy.entropy_heads(TEXTS, tokenizer, model, normalize, skip_first, controls=False),
                      model, high=1. if normalize else np.log(200))


def check_bias(tokenizer, model):
    result = bias.differential(tokenizer, model, bias.PAIRS[:6], controls=False)
    check_map(result, model)
    check_map(bias.signed_differential(result), model, low=-1.)
    assert len(result.scores) == 6 and (result.n_used + result.n_dropped == 6).all()


def check_patterns(tokenizer, model):
    found = patterns.pattern_scores(tokenizer, model, n=2, period=12, controls=False)
    assert set(found) == set(patterns.PATTERNS)
    for result in found.values(): check_map(result, model)
    loss = patterns.repeat_loss(tokenizer, model, n=2, period=12)
    assert 0 < loss["second"] < 30 and 0 < loss["first"] < 30


CHECKS = dict(entropy=check_entropy, bias=check_bias, patterns=check_patterns)


@pytest.mark.parametrize("analysis", CHECKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, analysis, tokenizer):
    CHECKS[analysis](tokenizer, random_model(family, vocab=len(tokenizer)))


@pytest.mark.parametrize("family", FAMILIES)
def test_controls_of_every_family(family, tokenizer):
    "The twin with random weights, and the checks that must give 0."
    result = bias.differential(tokenizer, random_model(family, vocab=len(tokenizer)), bias.PAIRS[:16], n=200)
    assert set(result.controls) == {"neutral", "definitional", "random weights"} and not result.no_control
    assert result.checks and max(result.checks.values()) < 1e-5
    for control in bias.signed_differential(result).controls.values(): assert np.isfinite(control.p).all()


@pytest.mark.parametrize("analysis", CHECKS)
def test_real_llama(analysis):
    if not STORIES.is_dir(): pytest.skip("stories260K is not beside this checkout")
    CHECKS[analysis](*load_model(str(STORIES)))


def test_no_induction_beyond_a_window(tokenizer):
    "A head that sees five tokens cannot look twelve back, and gets no score for it."
    model = random_model("mistral", vocab=len(tokenizer), sliding_window=5)
    assert windows(model) == [5, 5]
    found = patterns.pattern_scores(tokenizer, model, n=2, period=12, controls=False)
    assert found["induction"].effect.max() == found["duplicate"].effect.max() == 0 < found["previous"].effect.min()


def test_rows_before_the_pronoun_are_equal_in_every_family(tokenizer):
    from attn_lit.attention import get_attentions
    pair = bias.PAIRS[0]
    for family in FAMILIES:
        model = random_model(family, vocab=len(tokenizer))
        (tokens, male), (_, female) = (get_attentions(t, tokenizer, model) for t in (pair.male, pair.female))
        where = tokens.index(" he")
        assert (male[:, :, :where] == female[:, :, :where]).all(), family
