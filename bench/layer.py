"""One layer of attention on a GPU: PyTorch's kernel alone, this library's kernel with every sum, and tiles.

Milliseconds, medians; writes bench/layer.json. It needs a GPU.
"""
import argparse
import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from attn_lit.base import whole_file
from attn_lit.blocks import read_tiles, rows_a_block
from attn_lit.fused import read_fused
from attn_lit.masks import Mask, plan
from attn_lit.sums import Ask, Scores, Scratch

RESULTS = Path(__file__).resolve().parent/"layer.json"
# name, heads, key heads, dimensions of a head, dtype, tokens
LAYERS = [("gpt2", 12, 12, 64, "float32", n) for n in (128, 1024, 4096, 16384)]
LAYERS += [("gpt2", 12, 12, 64, "bfloat16", 4096), ("Llama of 100 M", 12, 4, 64, "float32", 8192),
           ("Llama of 8 B", 32, 8, 128, "bfloat16", 4096)]


def layer(heads, kv, d, dtype, n, device="cuda"):
    "Random queries, keys and values of one text, laid out as a model does, and the seven statistics of the benchmark."
    torch.manual_seed(0)
    how = dict(device=device, dtype=getattr(torch, dtype))
    q, k, v = (torch.randn(1, n, h, d, **how).transpose(1, 2) for h in (heads, kv, kv))
    real, own = torch.ones(1, n, dtype=torch.bool, device=device), torch.arange(n, device=device)
    columns = torch.stack([real.float(), (torch.rand(1, n, device=device) < .1).float()], -1)
    mask = Mask(lambda b, h, i, j: j <= i, 1, n, n, real.device)
    p = plan(mask, real, columns, rows_a_block(heads//kv, real.device), ranges=True)
    picks = torch.stack([0*own, own - 1, own - own % 7 - 1], -1)[None]
    return q, k, v, p, Ask(columns[..., 1:], distance=True, picks=picks), Scores(d**-.5)


def measured(name, heads, kv, d, dtype, n):
    "Milliseconds by each route."
    from triton.testing import do_bench
    q, k, v, p, ask, scores = layer(heads, kv, d, dtype, n)
    sdpa, scratch = torch.nn.functional.scaled_dot_product_attention, Scratch()
    only = replace(ask, columns=ask.columns[..., :0], entropy=False, distance=False, largest=False, picks=None)
    routes = dict(sdpa=lambda: sdpa(q, k, v, is_causal=True, enable_gqa=heads != kv),
                  output=lambda: read_fused(q, k, v, p, only, scores),
                  kernel=lambda: read_fused(q, k, v, p, ask, scores),
                  tiles=lambda: read_tiles(q, k, v, p, ask, scores, scratch))
    took = {route: round(do_bench(f, warmup=5, rep=60, return_mode="median"), 3) for route, f in routes.items()}
    return dict(layer=name, dtype=dtype, tokens=n, **took)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    if not torch.cuda.is_available(): raise SystemExit("There is no GPU: this measures nothing else.")
    import triton
    results = dict(date=date.today().isoformat(), gpu=torch.cuda.get_device_name(),
                   versions=dict(torch=torch.__version__, triton=triton.__version__), rows=[])
    for what in LAYERS:
        results["rows"].append(measured(*what))
        print(results["rows"][-1], flush=True)
        with whole_file(args.json) as part: part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
