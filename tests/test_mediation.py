"Patterns from another text in many families, against the weights of the eager path; and the cases of WinoBias."
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from families import CAUSAL, set_eager, small

from attn_lit.base import InputError
from attn_lit.bias import Pair
from attn_lit.formats import bias_items
from attn_lit.mediation import SWAPS, attention_from, attention_of, continuation_cases
from attn_lit.models import Parts

WINOBIAS = Path(__file__).parents[2]/"shared/data/bias/winobias"
OURS = [name for name, f in CAUSAL.items() if f.interface and f.lazy_mask and f.calls == 1]


@contextmanager
def softmax_seen(hook):
    "Inside, hook(i, weights) sees and may replace what the i-th softmax over (batch, head, query, key) gives."
    own, calls = torch.nn.functional.softmax, []

    def softmax(x, *args, **kwargs):
        out = own(x, *args, **kwargs)
        if x.ndim != 4: return out
        calls.append(1)
        return hook(len(calls) - 1, out)
    torch.nn.functional.softmax = softmax
    try: yield
    finally: torch.nn.functional.softmax = own


@torch.no_grad()
def by_hand(model, ids, other, heads):
    "The logits on `ids` with the eager weights of `other` in some heads."
    seen, n = {}, other.shape[1]

    def keep(i, w): seen[i] = w; return w

    def put(i, w):
        w = w.clone()
        for head in (h for layer, h in heads if layer == i):
            w[:, head, :n] = 0
            w[:, head, :n, :n] = seen[i][:, head, :, :n]
            if w.shape[3] > w.shape[2]: w[:, head, :n, -1] = seen[i][:, head, :, -1]
        return w
    set_eager(model)
    with softmax_seen(keep): model(input_ids=other)
    assert len(seen) == Parts(model).n_layers and seen[0].shape[1] == Parts(model).n_heads
    with softmax_seen(put): return model(input_ids=ids).logits


@pytest.mark.parametrize("name", OURS)
def test_patterns_of_another_text(name):
    model, draw = small(name), torch.Generator().manual_seed(0)
    ids, other = (torch.randint(1, 128, (1, n), generator=draw) for n in (12, 9))
    before = model.config._attn_implementation
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with attention_of(model) as own: model(input_ids=ids)
        with attention_of(model) as source: model(input_ids=other)
        every = [(layer, head) for layer in source for head in range(Parts(model).n_heads)]
        with attention_from(model, own, every): itself = model(input_ids=ids).logits
        assert model.config._attn_implementation == before and not SWAPS.get()
        expected = plain if CAUSAL[name].same else itself
        torch.testing.assert_close(itself, expected, atol=3e-4, rtol=1e-3)
        for heads in (every[1:2], every[-2:], every):
            with attention_from(model, source, heads): ours = model(input_ids=ids).logits
            assert (ours - plain).abs().max() > 1e-4
            theirs = by_hand(model, ids, other, heads)
            model.config._attn_implementation = before
            torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=1e-3)


def test_a_family_that_attends_twice_is_refused():
    with pytest.raises(InputError, match="more than once"), torch.no_grad(), attention_of(model := small("diffllama")):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_winobias_gives_the_cases_of_the_paper():
    "The paper's code loads 160; one of them ends otherwise with the other pronoun, so it is no pair here."
    if not WINOBIAS.is_dir(): pytest.skip("the WinoBias files are not at hand")
    rows = [row for row in bias_items(WINOBIAS, split="dev").rows if row["kind"] == "type1"]
    cases = continuation_cases([Pair(**{k: v for k, v in row.items() if k != "split"}) for row in rows])
    assert len(cases) == 159
    start = "The mover said thank you to the housekeeper because"
    assert any((c.null, c.other, c.typical, c.atypical) == (
        f"{start} she", f"{start} he", " cleaned the truck.", " is grateful.") for c in cases)
    assert all(c.null.split()[:-1] == c.other.split()[:-1] and c.typical != c.atypical for c in cases)
