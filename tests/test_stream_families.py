"The stream gives what its definitions give from eager patterns: sixty families, peaked attention, padding on each side."
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CAUSAL, ENCODERS, FAMILIES, HYBRID, set_eager, small

from attn_lit.base import InputError
from attn_lit.marks import Marks
from attn_lit.models import Encoded, Parts, load_model, load_tokenizer, model_source, pad_batch
from attn_lit.reference import DEFINITIONS, Rows, marked
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
        gaps[name] = float(np.nanmax(np.abs(mine - value)/np.maximum(1, np.abs(value)))) if np.isfinite(value).any() else 0.
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


def test_tiny(): assert max(e for _, e in errors(load_model("tiny")[1], texts()).values()) < 1e-5


def test_stories():
    if not STORIES.is_dir(): pytest.skip("stories260K is not beside this checkout (../shared/data/models)")
    assert max(e for _, e in errors(load_model(str(STORIES))[1], texts()).values()) < 1e-5


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
