"Direct logit attribution: exact or refused, for every family; a real Llama-style model; half precision."
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CAUSAL

from attn_lit.attribution import direct_logit_attribution, split_logit
from attn_lit.base import InputError
from attn_lit.models import encode, load_model, random_model

STORIES = Path(__file__).parents[2]/"shared/data/models/stories260K"
PROMPTS = ["The queen was sad because", "Tom lifted"]
REFUSED = {"mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3", "dbrx",
           "jetmoe", "llama4", # experts, whose projections are no modules
           "gpt_neox_japanese"} # hands its output bias on by itself


@pytest.fixture(scope="module")
def tokenizer(): return load_model("tiny")[0]


@torch.no_grad()
def shaken(model, seed=0):
    "The model with noise on all weights, so that no bias is 0 and no norm's weight 1."
    draw = torch.Generator().manual_seed(seed)
    for w in model.parameters(): w += .1*torch.randn(w.shape, generator=draw).to(w.dtype)
    return model


def gap(pieces, logit):
    "How far the pieces are from the logit, as a share of all they write."
    return abs(sum(float(x.double().sum()) for x in pieces.values()) - logit)/sum(float(x.abs().sum())
                                                                                for x in pieces.values())


@pytest.mark.parametrize("name", CAUSAL)
def test_pieces_add_up_or_are_refused(name, tokenizer):
    family = CAUSAL[name]
    model = shaken(random_model(family.kind, vocab=len(tokenizer), **family.settings))
    encoded = encode(PROMPTS[0], tokenizer)
    if name in REFUSED:
        with pytest.raises(InputError, match="a place that is not known|are not the sum"):
            split_logit(encoded, 3, 11, 7, tokenizer, model)
        return
    for pos, wrong in [(3, 7), (4, None)]:
        pieces, logit = split_logit(encoded, pos, 11, wrong, tokenizer, model)
        assert gap(pieces, logit) < 2e-5
        with torch.no_grad(): own = model(torch.tensor([encoded.ids])).logits[0, pos]
        if not getattr(model.config, "final_logit_softcapping", None):
            assert logit == pytest.approx(float(own[11] - (0 if wrong is None else own[wrong])), abs=1e-4)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not beside this checkout (../shared/data/models)")
def test_stories():
    tokenizer, model = load_model(str(STORIES))
    found = direct_logit_attribution(["Once upon a time", "One day, a girl"], " the", " a", tokenizer, model)
    np.testing.assert_allclose(found.pieces()["contribution"].sum(), found.logits.mean(), atol=1e-4)
    for prompt, logit in zip(found.prompts, found.logits):
        with torch.no_grad(): own = model(torch.tensor([encode(prompt, tokenizer).ids])).logits[0, -1]
        words = [encode(prompt + w, tokenizer).ids[-1] for w in (" the", " a")]
        assert logit == pytest.approx(float(own[words[0]] - own[words[1]]), abs=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(dtype):
    exact, half = (direct_logit_attribution(PROMPTS[0], " she", " he", *load_model("tiny", dtype=d))
                   for d in ("float32", dtype))
    assert np.abs(exact.effect - half.effect).max() < .05*np.abs(exact.effect).max()


def test_patterns_make_no_difference(tokenizer):
    model = load_model("tiny")[1]
    before = direct_logit_attribution(PROMPTS, " she", " he", tokenizer, model)
    model.set_attn_implementation("eager")
    for w in model.parameters(): w.requires_grad_(False)
    with torch.no_grad(): after = direct_logit_attribution(PROMPTS, " she", " he", tokenizer, model)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-5)
