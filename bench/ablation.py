"""The change of a metric without each head, for all heads: attn_lit against one whole pass a head, in plain passes.

Peers take turns on the same text, each in a process of its own. A whole run writes bench/ablation.json; a narrower one
(--models, --metrics, --lengths, --peers, --rounds) writes only where --json says.
"""
import argparse
import os
from functools import partial
from itertools import product
from pathlib import Path

import torch
from peers import MODELS, Peer, plain
from torch import nn
from transformers.pytorch_utils import Conv1D

from attn_lit.ablation import every_head
from attn_lit.experiment import set_up
from attn_lit.intervene import head_columns
from attn_lit.metrics import PIECE, Metric, on_targets
from attn_lit.models import Parts, in_features
from attn_lit.neurons import bridged, hooked

RESULTS = Path(__file__).resolve().parent/"ablation.json"
WORKS = {"loss": {40: 3, 256: 1}, "last": {256: 1}} # metric → tokens → rounds; a run of 144 passes is long
BATCH_TOKENS = 512 # what `set_up` takes
SAYS = dict(loss="loss, {} tokens", last="a logit difference at the last of {} tokens")


# ── the two metrics, on texts of random tokens

def metric_of(kind, texts):
    "The loss on each text, or the difference of two logits at its last position."
    def last(logits, i, clean): return logits[:, -1, 5].float() - logits[:, -1, 6].float()
    if kind == "last": return Metric(kind, texts.encoded, [[len(e) - 1] for e in texts.encoded], last)
    loss = on_targets(lambda logs: -logs.mean(-1), [e.ids[1:] for e in texts.encoded])
    return Metric(kind, texts.encoded, [list(range(len(e) - 1)) for e in texts.encoded], **loss)


# ── peers: each `setup(tokenizer, model)` gives a function from texts to changes as (text, layer, head)

def attn_lit(kind, tokenizer, model):
    "The matrix as the library makes it."
    parts = Parts(model)
    def run(texts):
        found = set_up(metric_of(kind, texts), tokenizer, model).effects(every_head(parts))
        return dict(change=found.T.reshape(-1, parts.n_layers, parts.n_heads))
    return run


def a_pass_a_head(kind, passes):
    "Changes from `passes(ids, reads, head)`, the logits at these positions without a head, or with all."
    def run(texts):
        metric, rows = metric_of(kind, texts), []
        for i, encoded in enumerate(metric.encoded):
            ids, every = torch.tensor([encoded.ids]), passes.heads
            def value(head=None, i=i, ids=ids):
                return float(metric.value(passes(ids, metric.reads[i], head), i, None)[0])
            clean = value()
            rows.append([value(head) - clean for head in every])
        n_layers = every[-1][0] + 1
        return dict(change=torch.tensor(rows).view(len(rows), n_layers, -1).numpy())
    return run


class Hooks:
    "One whole pass a head, by a forward hook of one's own; where few positions are read, only those are unembedded."
    def __init__(self, tokenizer, model):
        self.model, self.parts = model, Parts(model)
        self.heads = [head for some in every_head(self.parts) for head in some]

    @torch.no_grad()
    def __call__(self, ids, reads, head=None):
        keep = torch.tensor(reads)
        if head is None: return self.model(ids.to(self.model.device), use_cache=False, logits_to_keep=keep).logits
        module = self.parts.out_projs[head[0]]
        columns = head_columns([head[1]], self.parts.n_heads, self.parts.n_heads*self.parts.d_head)
        with hooked([module], lambda i, x: x.masked_fill(columns.to(x.device), 0.)):
            return self.model(ids.to(self.model.device), use_cache=False, logits_to_keep=keep).logits


class Lens:
    "One whole pass a head by TransformerLens; where one position is read, it too unembeds one."
    def __init__(self, tokenizer, model):
        self.bridge = bridged(tokenizer, model)
        self.heads = [(i, h) for i in range(self.bridge.cfg.n_layers) for h in range(self.bridge.cfg.n_heads)]

    @torch.no_grad()
    def __call__(self, ids, reads, head=None):
        def zero(z, hook): z[:, :, head[1]] = 0; return z
        hooks = [] if head is None else [(f"blocks.{head[0]}.attn.hook_z", zero)]
        ids, n = ids.to(self.bridge.cfg.device), ids.shape[1]
        few = dict(logits_to_keep=n - reads[0]) if len(reads) == 1 else {}
        with self.bridge.hooks(fwd_hooks=hooks): logits = self.bridge(ids, **few)
        return logits[:, [r - n for r in reads]] if few else logits[:, reads]


def linear_of(parts, layer, changed):
    "A block's linear modules, and whether each must be asked at every position of the text or where it is read."
    block, out = parts.blocks[layer], parts.out_projs[layer]
    inner = set(parts.attention(block).modules())
    for module in block.modules():
        if not isinstance(module, nn.Linear | Conv1D): continue
        into_heads = module in inner and module is not out
        if into_heads and not changed: continue # the layer's own attention is known up to its output projection
        yield module, into_heads or layer < parts.n_layers - 1


def products(kind, tokenizer, model):
    "The floor: the matrix products that every exact way must make, on random numbers, and nothing between them."
    parts, numbers = Parts(model), torch.randn(2**22, device=model.device)
    def ask(module, positions):
        width = in_features(module)
        module(numbers[:positions*width].view(positions, width))
    def unembed(some, start, end):
        weight = parts.unembed.weight[start:end]
        nn.functional.linear(numbers[:some*weight.shape[1]].view(some, -1), weight)
    def run(texts):
        for encoded, reads in zip(texts.encoded, metric_of(kind, texts).reads):
            n, few = len(encoded), len(reads)
            rows, vocab = max(1, BATCH_TOKENS//n), parts.unembed.weight.shape[0]
            for start, first in product(range(parts.n_layers), range(0, parts.n_heads, rows)):
                some = min(rows, parts.n_heads - first)
                for layer in range(start, parts.n_layers):
                    for module, everywhere in linear_of(parts, layer, layer > start):
                        ask(module, some*(n if everywhere else few))
                width = max(1, PIECE//(some*few))
                for k in range(0, vocab, width): unembed(some*few, k, k + width)
        return {}
    return run


def peers(kind):
    "The ways to this metric's matrix."
    def by(passes): return lambda tokenizer, model: a_pass_a_head(kind, passes(tokenizer, model))
    return dict(plain=Peer("plain forward", plain), attn_lit=Peer("attn_lit", partial(attn_lit, kind)),
                products=Peer("the floor: products alone", partial(products, kind)),
                hooks=Peer("one pass a head, hooks", by(Hooks)),
                lens=Peer("one pass a head, TransformerLens", by(Lens), needs="transformer_lens"))


TASKS = {kind: peers(kind) for kind in WORKS}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["gpt2"])
    parser.add_argument("--metrics", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens; default: 40, 256 for the loss, 256 else")
    parser.add_argument("--peers", nargs="+", choices=TASKS["loss"], default=list(TASKS["loss"]))
    parser.add_argument("--rounds", type=int, help="default: 3 for 40 tokens, 1 for 256")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--json", type=Path, help=f"default for a whole run: bench/{RESULTS.name}")
    args = parser.parse_args()
    narrow = args.lengths or args.rounds or args.peers != list(TASKS["loss"]) or args.metrics != list(WORKS)
    whole = args.models == ["gpt2"] and not narrow
    args.json, args.seconds = args.json or (RESULTS if whole else None), 3600
    return args


def main():
    from bench import beginning, save_to, started, summary, take_turns, warnings
    from table import markdown, notes
    args = options()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
    results = beginning(args, TASKS["loss"], corpus="the metric of the column, without each head in turn")
    for model in args.models:
        for kind in args.metrics:
            with started(results, model, args, kind) as workers:
                for n in args.lengths or WORKS[kind]:
                    turns = take_turns(workers, [n], False, args.rounds or WORKS[kind].get(n, 1))
                    results["rows"] += summary(turns, model=model, work=SAYS[kind].format(n), texts=1)
                    results["statistics"] = ["the change without each head"]
                    save_to(args.json, results)
    print("", markdown(results), "", *notes(results), *warnings(results), sep="\n")


if __name__ == "__main__": main()
