"The stream gives what its definitions give from eager patterns: every family, peaked attention, padded on each side."
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CAUSAL, ENCODERS, FAMILIES, HYBRID, set_eager, small

from attn_lit import fused, kernel, watch
from attn_lit.base import InputError
from attn_lit.marks import Marks
from attn_lit.models import Encoded, Parts, load_model, load_tokenizer, model_source, pad_batch
from attn_lit.reference import DEFINITIONS, Rows, marked, value_norm, value_weighted
from attn_lit.rows import STATISTICS
from attn_lit.stream import head_statistics
from attn_lit.watch import observe

STORIES = Path(__file__).resolve().parents[2]/"shared/data/models/stories260K"
LENGTHS, WITHIN = (24, 9, 17), 3


@cache
def tokenizer(): return load_tokenizer(model_source("tiny"))


def texts(vocab=128):
    "Random tokens with repeats, of three lengths."
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 60, (n,), generator=draw).tolist() for n in LENGTHS]
    return [Encoded("", i, [""]*len(i), [(0, 0)]*len(i)) for i in ids]


def marks_of(encoded):
    return Marks([np.arange(len(e)) % 5 == 2 for e in encoded], [np.arange(len(e)) % 2 == 1 for e in encoded])


def laid(sides, real):
    out = torch.zeros_like(real)
    out[real] = torch.from_numpy(np.concatenate(sides))
    return out


@torch.no_grad()
def by_definition(model, inputs, marks, causal=True):
    "Every statistic from the eager patterns; what a query sees is read off the patterns themselves."
    before = model.config._attn_implementation
    out = set_eager(model)(**inputs, output_attentions=True)
    model.config._attn_implementation = before
    n = inputs["input_ids"].shape[1]
    real, layers = inputs["attention_mask"].bool(), []
    keys, queries = (laid(side, real) for side in (marks.keys, marks.queries))
    for a in (a for a in out.attentions if a is not None and a.shape[-2:] == (n, n)):
        rows = Seen(a.float(), inputs["input_ids"], real, causal=causal)
        values = {name: f(rows, WITHIN) if name == "local" else f(rows) for name, f in DEFINITIONS.items()}
        values["marked:x"], values["chance:x"] = marked(rows, keys, queries)
        layers.append(values)
    return {name: torch.stack([v[name] for v in layers], 1).numpy() for name in layers[0]}


class Seen(Rows):
    "Rows that see what gets any mass."
    @property
    def sees(self): return (self.attn.amax(1) > 0) & self.real[:, :, None] & self.real[:, None]


def worst(got, want, layers=slice(None)):
    "The largest difference of any statistic; missing in one and not in the other is as bad as can be."
    assert set(got) == set(want)
    gaps = {}
    for name, value in want.items():
        mine = got[name][:, layers]
        assert mine.shape == value.shape and (np.isnan(mine) == np.isnan(value)).all(), name
        gaps[name] = float(np.nanmax(np.abs(mine - value)/np.maximum(1, np.abs(value)), initial=0))
    return max(gaps.items(), key=lambda x: x[1])


@torch.no_grad()
def errors(model, encoded, causal=True, layers=slice(None)):
    "Worst difference from the definitions: each text by itself, padded right, padded left."
    marks, out = marks_of(encoded), {}
    got = head_statistics(encoded, tokenizer(), model, STATISTICS, {"x": marks}, within=WITHIN)
    alone = [by_definition(model, pad_batch([e], tokenizer(), model, "right"), marks.pick([i]), causal)
             for i, e in enumerate(encoded)]
    out["plain"] = worst(got, {name: np.concatenate([a[name] for a in alone]) for name in alone[0]}, layers)
    for side in ("right", "left"):
        inputs = pad_batch(encoded, tokenizer(), model, side)
        real = inputs["attention_mask"].bool()
        some = {"x": Marks(*(laid(s, real) for s in (marks.keys, marks.queries)))}
        with observe(model, STATISTICS, some, within=WITHIN) as watch:
            model(**inputs, **(dict(output_attentions=True) if model.config._attn_implementation == "eager" else {}))
        out[side] = worst(watch.statistics, by_definition(model, inputs, marks, causal), layers)
    return out


@pytest.mark.filterwarnings("ignore:.*takes no registered")
@pytest.mark.parametrize("name", [n for n in (*CAUSAL, *ENCODERS) if FAMILIES[n].lazy_mask])
def test_stream_is_its_definition(name):
    found = errors(small(name), texts(), not FAMILIES[name].encoder)
    assert max(e for _, e in found.values()) < 1e-5, found


@pytest.mark.skipif(not kernel.FAST, reason="numba is not installed")
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma2", "gpt_oss"])
def test_with_the_kernel_and_without(name, monkeypatch):
    found = []
    for fast in (True, False):
        monkeypatch.setattr(kernel, "FAST", fast)
        found.append(head_statistics(texts(), tokenizer(), small(name), STATISTICS, {"x": marks_of(texts())},
                                     within=WITHIN))
    assert worst(*found)[1] < 1e-6, worst(*found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py has the kernel as it runs there")
@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "t5", "bert"])
def test_with_the_kernel_of_a_gpu_interpreted(name, monkeypatch):
    if fused.triton is None: pytest.skip("Triton is not installed")
    calls, kernel = [], fused.read_fused
    def counted(*layer): calls.append(1); return kernel(*layer)
    monkeypatch.setattr(fused, "read_fused", counted)
    found = []
    for fuse in (True, False):
        monkeypatch.setattr(fused, "tries", lambda *_, fuse=fuse: fuse)
        monkeypatch.setattr(fused, "serves", lambda *_: True)
        monkeypatch.setattr(watch, "tries", fused.tries)
        found.append(head_statistics(texts(), tokenizer(), small(name), STATISTICS, {"x": marks_of(texts())},
                                     within=WITHIN))
    assert calls and worst(*found)[1] < 1e-5, worst(*found)


def test_tiny(): assert max(e for _, e in errors(load_model("tiny")[1], texts()).values()) < 1e-5


def test_stories():
    if not STORIES.is_dir(): pytest.skip("stories260K is not beside this checkout (../shared/data/models)")
    assert max(e for _, e in errors(load_model(str(STORIES))[1], texts()).values()) < 1e-5


@pytest.mark.parametrize("name", [n for n in HYBRID if HYBRID[n].layers != ()])
def test_layers_without_attention_are_missing(name):
    model = small(name)
    found = head_statistics(texts(), tokenizer(), model, ("entropy", "previous"))["entropy"]
    layers = range(Parts(model).n_layers) if HYBRID[name].layers is None else HYBRID[name].layers
    assert np.isfinite(found[:, list(layers)]).all()
    assert np.isnan(np.delete(found, list(layers), axis=1)).all()


@pytest.mark.filterwarnings("ignore:.*takes no registered")
@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_a_model_without_attention_is_refused(name):
    with pytest.raises(InputError, match="no attention to read"): head_statistics(texts(), tokenizer(), small(name))


@pytest.mark.filterwarnings("ignore:.*takes no registered")
def test_a_family_that_takes_no_mask_of_ours_is_read_from_its_patterns():
    model = small("doge")
    found = head_statistics(texts(), tokenizer(), model, STATISTICS, within=WITHIN)
    assert all(np.isfinite(v).all() for v in found.values()) and model.config._attn_implementation != "attn_lit"


@pytest.mark.parametrize("name", ["bitnet", "diffllama"])
def test_value_weighting_is_refused_where_it_means_nothing(name):
    for layers in (None, [1]):
        with pytest.raises(InputError, match="not defined for it"):
            head_statistics(texts(), tokenizer(), small(name), ["value_norm"], layers=layers)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_value_weighting_with_grouped_heads(name):
    "Each key's norm the long way: its value times the head's own columns of the output projection."
    model, values = small(name), []
    inputs = pad_batch(texts(), tokenizer(), model, "right")
    heads, layers = model.config.num_attention_heads, model.model.layers
    handles = [b.self_attn.v_proj.register_forward_hook(lambda m, a, out: values.append(out)) for b in layers]
    out = set_eager(model)(**inputs, output_attentions=True)
    for handle in handles: handle.remove()
    model.config._attn_implementation = "sdpa"
    got = head_statistics(texts(), tokenizer(), model, ["value_norm", *(f"value_weighted_{n}" for n in DEFINITIONS)])
    for layer, (a, v, block) in enumerate(zip(out.attentions, values, layers)):
        d = v.shape[-1]//model.config.num_key_value_heads
        v = v.unflatten(-1, (-1, d)).repeat_interleave(heads*d//v.shape[-1], 2)
        w = block.self_attn.o_proj.weight.unflatten(1, (heads, d))
        norms = torch.stack([(v[:, :, h] @ w[:, h].T).norm(dim=-1) for h in range(heads)], 1)
        rows = Seen(a, inputs["input_ids"], inputs["attention_mask"].bool())
        np.testing.assert_allclose(got["value_norm"][:, layer], value_norm(rows, norms), rtol=1e-4)
        rows = Seen(*vars(value_weighted(rows, norms)).values())
        for key, f in DEFINITIONS.items():
            np.testing.assert_allclose(got[f"value_weighted_{key}"][:, layer], f(rows), atol=2e-5, err_msg=key)


def packed(lengths):
    "Several texts in one row: positions begin anew with each."
    encoded = texts()
    ids = torch.tensor([sum((e.ids for e in encoded), [])])
    return encoded, dict(input_ids=ids, position_ids=torch.cat([torch.arange(n) for n in lengths])[None])


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma3"])
def test_a_packed_row_is_its_texts(name):
    "What a query of a packed row does is what it does in its text alone."
    model = small(name)
    encoded, inputs = packed(LENGTHS)
    kinds = ("entropy", "entropy_no_sink", "sink", "previous", "duplicate", "induction", "distance")
    with observe(model, kinds, per_query=True) as watch: model(**inputs, use_cache=False)
    start = 0
    for e in encoded:
        alone = head_statistics([e], tokenizer(), model, kinds, per_query=True)
        for key, value in alone.items():
            mine = watch.statistics[key][..., start:start + len(e)]
            np.testing.assert_allclose(mine, value, atol=1e-5, rtol=1e-5, err_msg=key)
        start += len(e)


def table(names):
    "Prints the worst error of each family."
    warnings.simplefilter("ignore")
    for name in names or [n for n in (*CAUSAL, *ENCODERS) if FAMILIES[n].lazy_mask]:
        try: found = errors(small(name), texts(), not FAMILIES[name].encoder)
        except Exception as error: print(f"{name:24} {type(error).__name__}: {str(error)[:150]}", flush=True); continue
        how = "interface" if FAMILIES[name].interface else "patterns, a layer at a time"
        print(f"{name:24} {how:28} " + "  ".join(f"{k} {e:.0e} ({s})" for k, (s, e) in found.items()), flush=True)


if __name__ == "__main__":
    import sys
    table(sys.argv[1:])
