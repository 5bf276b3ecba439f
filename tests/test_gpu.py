"What runs on a GPU gives what runs on the CPU, by the kernel and in tiles; skipped where there is no GPU."
import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, small
from test_stream_families import WITHIN, marks_of, texts, tokenizer, worst

from attn_lit import fused
from attn_lit.ablation import full_ablation_matrix
from attn_lit.blocks import read_blocks
from attn_lit.entropy import TEXTS
from attn_lit.fused import EXACT, differ, finished, random_layer, read_fused
from attn_lit.lens import logit_lens
from attn_lit.models import load_model
from attn_lit.rows import STATISTICS
from attn_lit.stream import head_statistics

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
              pytest.mark.filterwarnings("error:The fused route"),
              pytest.mark.filterwarnings("ignore:.*takes no registered")]
HALF = (torch.bfloat16, torch.float16)
READ = [n for n, f in FAMILIES.items() if f.lazy_mask and f.layers != ()]


def real(n, batch=2, right=0, left=0):
    out = torch.ones(batch, n, dtype=torch.bool, device="cuda")
    if right: out[-1, -right:] = False
    if left: out[-1, :left] = False
    return out


KINDS = dict(plain=dict(real=(50,)), right=dict(real=(50, 2, 20)), left=dict(real=(50, 2, 0, 20)),
             window=dict(real=(50, 2, 0, 20), window=9), cap=dict(real=(50,), softcap=3.),
             sinks=dict(real=(50,), sinks=(4,)),
             bias=dict(real=(50,), bias=(1, 4, 50, 50)), key_bias=dict(real=(50,), key_bias=(2, 4, 50)),
             cache=dict(real=(50, 2, 0, 20), n=37), widths=dict(real=(50,), d=24, d_value=12),
             alone=dict(real=(50,), n_kv=4),
             d40=dict(real=(300,), n=300, d=40, d_value=40), d64=dict(real=(1500,), n=1500, d=64, d_value=64),
             d80=dict(real=(700,), n=700, d=80, d_value=80), d128=dict(real=(1500,), n=1500, d=128, d_value=128),
             d192=dict(real=(500,), n=500, d=192, d_value=128), d256=dict(real=(700,), n=700, d=256, d_value=256))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kernel(kind, dtype):
    torch.manual_seed(0)
    drawn = ("bias", "key_bias", "sinks")
    has = {k: torch.randn(v, device="cuda") if k in drawn else v for k, v in KINDS[kind].items()}
    layer = random_layer(**has | dict(real=real(*has["real"]), window=has.get("window", 10**6)), dtype=dtype)
    found = differ(finished(*read_fused(*layer)), read_blocks(*layer), layer[3].asks)
    output = found.pop("output")
    assert max(found.values()) < 2e-5, found
    assert output < max(2e-5, 8*torch.finfo(dtype).eps), output


def measured(model):
    return head_statistics(texts(), tokenizer(), model, STATISTICS, {"x": marks_of(texts())}, within=WITHIN)


@pytest.mark.parametrize("route", ["kernel", "tiles"])
@pytest.mark.parametrize("name", READ)
def test_family(name, route, monkeypatch):
    model, calls = small(name), []
    here, kernel = measured(model), fused.read_fused
    def counted(*layer): calls.append(1); return kernel(*layer)
    if route == "tiles": monkeypatch.setattr(fused, "triton", None)
    monkeypatch.setattr(fused, "read_fused", counted)
    name_of, gap = worst(measured(copy.deepcopy(model).cuda()), here)
    print(f"{name} {route} {name_of} {gap:.1e}")
    assert gap < EXACT, name_of
    if FAMILIES[name].interface: assert bool(calls) == (route == "kernel")


def test_ablation():
    tokenizer, model = load_model("tiny", "cpu")
    here = full_ablation_matrix(TEXTS[:3], tokenizer, model, n=20).effect
    there = full_ablation_matrix(TEXTS[:3], tokenizer, model.cuda(), n=20).effect
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_lens():
    tokenizer, model = load_model("tiny", "cpu")
    here = logit_lens(TEXTS[0], tokenizer, model)
    there = logit_lens(TEXTS[0], tokenizer, model.cuda())
    np.testing.assert_allclose(there.kl, here.kl, atol=1e-4)
