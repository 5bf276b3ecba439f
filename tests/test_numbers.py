"""float32 sums whatever the model computes in, and how far half precision moves what is measured of heads.

`python tests/test_numbers.py` prints what was measured, for the table in methods.ipynb.
"""
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attn_lit import ablation, bias, entropy, instruction, kernel, lens, neurons, patterns, sentiment
from attn_lit.models import Parts, load_model
from attn_lit.rows import STATISTICS
from attn_lit.stream import head_statistics

STORIES = Path(__file__).resolve().parents[2]/"shared/data/models/stories260K"
MODELS = dict(tiny="tiny", stories260K=str(STORIES))
HALF = ("bfloat16", "float16")


def statistics(t, m):
    found = head_statistics(entropy.TEXTS[:4], t, m, [s for s in STATISTICS if not s.startswith("value")])
    return np.stack(list(found.values()))


ANALYSES = dict( # units in the last place, for each √layer, that its bound allows, and what is measured of each head
    statistics=(4, statistics),
    entropy=(2, lambda t, m: entropy.entropy_heads(entropy.TEXTS, t, m, controls=False, n=100).effect),
    sentiment=(2, lambda t, m: sentiment.head_scores(sentiment.SENTIMENT_TEXTS, sentiment.SENTIMENT_LABELS, t, m,
                                                     controls=False, n=100).effect),
    bias=(2, lambda t, m: bias.signed_differential(bias.differential(t, m, bias.PAIRS[:48], False, 100)).effect),
    instruction=(2, lambda t, m: instruction.head_scores(t, m, controls=False, n=100).effect),
    patterns=(2, lambda t, m: np.stack([r.effect for r in patterns.pattern_scores(
        t, m, n=4, period=20, controls=False).values()])),
    ablation=(2, lambda t, m: ablation.full_ablation_matrix(entropy.TEXTS[:3], t, m, n=100).effect))


@cache
def loaded(name, dtype): return load_model(MODELS[name], dtype=dtype)


@cache
def effect(analysis, name, dtype): return ANALYSES[analysis][1](*loaded(name, dtype))


def gap(analysis, name, dtype):
    "The largest difference of any head's number from float32, relative above 1."
    there, here = effect(analysis, name, "float32"), effect(analysis, name, dtype)
    assert (np.isnan(there) == np.isnan(here)).all()
    return float(np.nanmax(np.abs(here - there)/np.maximum(1, np.abs(there))))


def bound(analysis, name, dtype):
    "What rounding may change: units in the last place, times the square root of the layers."
    return ANALYSES[analysis][0]*torch.finfo(getattr(torch, dtype)).eps*Parts(loaded(name, dtype)[1]).n_layers**.5


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("analysis", ANALYSES)
def test_half_precision_within_its_bound(analysis, name, dtype):
    if name == "stories260K" and not STORIES.is_dir(): pytest.skip("stories260K is not beside this checkout")
    assert 0 < gap(analysis, name, dtype) <= bound(analysis, name, dtype)


SUMS = {"sum", "mean", "_softmax", "_log_softmax", "logsumexp", "cumsum", "prod", "var", "std", "exp", "log",
        "linalg_vector_norm"}


class InHalf(TorchDispatchMode):
    "Notes where a line of attn_lit, and not of the model, sums or exponentiates in half precision."
    def __init__(self): super().__init__(); self.seen = set()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in SUMS and isinstance(out, torch.Tensor) and out.dtype in (torch.bfloat16, torch.float16):
            frame = sys._getframe(1)
            while frame and frame.f_globals.get("__name__", "").split(".")[0] not in ("attn_lit", "transformers"):
                frame = frame.f_back
            if frame and frame.f_globals["__name__"].startswith("attn_lit"):
                self.seen.add((name, frame.f_globals["__name__"], frame.f_code.co_name))
        return out


@pytest.mark.parametrize("dtype", HALF)
def test_sums_are_float32(dtype, monkeypatch):
    "All analyses, and the stream by PyTorch's operations too: nothing of ours is summed in half precision."
    tokenizer, model = loaded("tiny", dtype)
    planted = {"__name__": "attn_lit.planted"}
    exec("def shares(x): return x.softmax(-1)", planted)
    with InHalf() as mode: planted["shares"](torch.ones(3, dtype=model.dtype))
    assert mode.seen == {("_softmax", "attn_lit.planted", "shares")} # it would be noticed
    with InHalf() as mode:
        for name in ("statistics", "sentiment", "instruction", "ablation"): ANALYSES[name][1](tokenizer, model)
        lens.logit_lens("The king saw the fox.", tokenizer, model)
        neurons.get_ffn_activations("The king saw the fox.", tokenizer, model)
        monkeypatch.setattr(kernel, "FAST", False)
        head_statistics(entropy.TEXTS[:2], tokenizer, model, STATISTICS)
    assert not mode.seen


def main():
    for dtype in HALF:
        for name in MODELS:
            for analysis in ANALYSES:
                print(f"{dtype:9} {name:12} {analysis:12} {gap(analysis, name, dtype):.1e} of "
                      f"{bound(analysis, name, dtype):.1e}", flush=True)


if __name__ == "__main__": main()
