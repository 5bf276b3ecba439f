"Neurons, logit lens and ablation: ten families, a real Llama-style model with grouped heads, and TransformerLens."
from pathlib import Path

import numpy as np
import pytest
import torch

from attn_lit.ablation import ablate_head, full_ablation_matrix
from attn_lit.intervene import head_columns, intervened
from attn_lit.lens import logit_lens
from attn_lit.base import InputError
from attn_lit.models import FAMILIES, Parts, encode, load_model, pad_batch, random_model
from attn_lit.neurons import get_ffn_activations, recorded

STORIES = Path(__file__).parents[2]/"shared/data/models/stories260K"
TEXTS = ["The queen lifted her sword.", "Once upon a time there was a little fox who lived in the woods.", "Tom ran."]
GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma")


@pytest.fixture(scope="module")
def tiny(): return load_model("tiny")


@pytest.fixture(scope="module")
def stories():
    if not STORIES.is_dir(): pytest.skip("the model stories260K is not at hand")
    return load_model(str(STORIES))


@pytest.fixture(params=FAMILIES)
def small(request, tiny): return tiny[0], random_model(request.param, vocab=len(tiny[0]))


def trace(model):
    "Everything that a hook or a stand-in could leave on a model."
    return [(name, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
            for name, m in model.named_modules()]


def check_neurons(tokenizer, model):
    "What enters the down projections, multiplied out, is what leaves them."
    acts, parts = get_ffn_activations(TEXTS[1], tokenizer, model).acts, Parts(model)
    with torch.no_grad(), recorded(parts.down_projs, output=True) as out:
        model(**pad_batch([encode(TEXTS[1], tokenizer)], tokenizer, model))
    for layer, module in enumerate(parts.down_projs):
        weight = module.weight.T if isinstance(module, torch.nn.Linear) else module.weight
        again = acts[layer] @ weight.detach().numpy() + (0 if module.bias is None else module.bias.detach().numpy())
        np.testing.assert_allclose(again, out[layer].reshape(again.shape), atol=1e-4, rtol=1e-3)


def check_lens(tokenizer, model):
    "After the last layer the lens gives the model's own logits."
    lens = logit_lens(TEXTS[1], tokenizer, model, keep_logits=True)
    with torch.no_grad(): own = model(**pad_batch([encode(TEXTS[1], tokenizer)], tokenizer, model)).logits[0]
    np.testing.assert_allclose(lens.logits[-1], own, atol=1e-5, rtol=1e-5)
    assert lens.kl.shape == (Parts(model).n_layers + 1, len(lens.tokens))
    assert (lens.kl[-1] < 1e-5).all() and lens.kl[0].mean() > 1e-6


def check_ablation(tokenizer, model):
    "Each text and head by itself, a whole pass with a hand-made hook, gives the matrix; how rows are batched does not."
    parts = Parts(model)
    matrix = full_ablation_matrix(TEXTS, tokenizer, model)
    for i, layer, head in np.ndindex(matrix.scores.shape):
        columns = head_columns([head], parts.n_heads, parts.n_heads*parts.d_head)
        inputs = pad_batch([encode(TEXTS[i], tokenizer)], tokenizer, model)
        clean = ce(model, inputs)
        def zero(module, args, columns=columns): return (args[0].masked_fill(columns, 0.),)
        hook = parts.out_projs[layer].register_forward_pre_hook(zero)
        without = ce(model, inputs)
        hook.remove()
        assert abs(without - clean - matrix.scores[i, layer, head]) < 1e-5
    for batch_tokens in (1, 40):
        again = full_ablation_matrix(TEXTS[::-1], tokenizer, model, batch_tokens=batch_tokens)
        np.testing.assert_allclose(again.effect, matrix.effect, atol=1e-5)
    one = ablate_head(TEXTS, tokenizer, model, parts.n_layers - 1, 1)
    assert one.delta == pytest.approx(matrix.effect[-1, 1], abs=1e-5)


@torch.no_grad()
def ce(model, inputs):
    "Mean negative log-likelihood of one text's tokens after the first."
    logits = model(**inputs).logits[0, :-1].double().log_softmax(-1)
    return -logits.gather(-1, inputs["input_ids"][0, 1:, None]).mean().item()


@pytest.mark.parametrize("check", [check_neurons, check_lens, check_ablation])
def test_family(check, small):
    before = trace(small[1])
    check(*small)
    assert trace(small[1]) == before


@pytest.mark.parametrize("check", [check_neurons, check_lens, check_ablation])
def test_stories(check, stories):
    before = trace(stories[1])
    check(*stories)
    assert trace(stories[1]) == before


@pytest.mark.parametrize("kind", ["gate", "activation"])
def test_gate(kind, small):
    "The families with a gate give it, the others say that they have none."
    tokenizer, model = small
    if model.config.model_type in GATED:
        assert get_ffn_activations(TEXTS[0], tokenizer, model, kind).acts.shape[-1] == 64
    else:
        with pytest.raises(InputError, match="has no gate"): get_ffn_activations(TEXTS[0], tokenizer, model, kind)


def test_head_out_of_range(small):
    with pytest.raises(InputError, match="layers 0 to 1"): ablate_head(TEXTS, *small, 2, 0)
    with pytest.raises(InputError, match="heads 0 to 3"): ablate_head(TEXTS, *small, 0, 4)


def test_nothing_left_after_exception(small):
    tokenizer, model = small
    before = trace(model)
    with pytest.raises(RuntimeError, match="on purpose"), intervened(model, [(0, 0), (1, 3)]):
        raise RuntimeError("on purpose")
    assert trace(model) == before


def check_bridge(tokenizer, model):
    "TransformerLens gives the same numbers to 1e-4, and the caller's model stays as it was."
    pytest.importorskip("transformer_lens")
    before, weights = trace(model), {n: p.clone() for n, p in model.state_dict().items()}
    implementation = model.config._attn_implementation
    kinds = ("product", "gate") if model.config.model_type in GATED else ("product",)
    for kind in kinds:
        ours, theirs = (get_ffn_activations(TEXTS[1], tokenizer, model, kind, backend=b).acts for b in BOTH)
        np.testing.assert_allclose(theirs, ours, atol=1e-4)
    ours, theirs = (logit_lens(TEXTS[1], tokenizer, model, keep_logits=True, backend=b) for b in BOTH)
    np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4)
    np.testing.assert_allclose(theirs.kl, ours.kl, atol=1e-4)
    ours, theirs = (full_ablation_matrix(TEXTS, tokenizer, model, backend=b) for b in BOTH)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-4)
    assert trace(model) == before and model.config._attn_implementation == implementation
    assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())


BOTH = ("native", "transformer_lens")


def test_bridge_tiny(tiny): check_bridge(*tiny)
def test_bridge_stories(stories): check_bridge(*stories)
def test_bridge_family(small): check_bridge(*small)


def test_bridge_wants_a_known_family(tiny):
    "A model that TransformerLens does not take is an InputError, not a traceback."
    pytest.importorskip("transformer_lens")
    model = random_model("gpt2", vocab=len(tiny[0]))
    model.config.architectures = ["NoSuchModel"]
    model.config.model_type = "no_such_model"
    with pytest.raises(InputError, match="use backend='native'"):
        get_ffn_activations(TEXTS[0], tiny[0], model, backend="transformer_lens")
