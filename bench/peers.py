"What is measured: the models, the work, and every way to seven statistics of each head."
import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, reduce

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from attn_lit.models import TINY, Encoded, Parts, load_tokenizer, pad_batch
from attn_lit.neurons import bridged
from attn_lit.stream import head_statistics
from attn_lit.watch import Enough

STATS = ("entropy", "max", "distance", "sink", "previous", "induction", "marked:m")


# ── models and texts

LLAMA = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4,
             intermediate_size=2048, vocab_size=32000, max_position_embeddings=32768, tie_word_embeddings=True)
TINY_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=128, bos_token_id=0,
                  eos_token_id=0)
MODELS = {"gpt2": ("gpt2", dict(max_position_embeddings=32768)), "llama": ("llama", LLAMA), # tiny: for tests
          "tiny-gpt2": ("gpt2", TINY_SIZES),
          "tiny-llama": ("llama", dict(TINY_SIZES, num_key_value_heads=2, intermediate_size=64))}


@torch.no_grad()
def made(name):
    "A model of seeded random weights, whose attention is made uneven by larger queries and keys."
    family, sizes = MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), attn_implementation="sdpa").eval()
    for path, weight in model.named_parameters():
        # 2.5 × 2.5 brings the scores' spread from 0.3, which is near uniform attention, to about 2
        if path.endswith("c_attn.weight"): weight[:, :2*Parts(model).d_model] *= 2.5
        elif path.endswith(("q_proj.weight", "k_proj.weight")): weight *= 2.5
    return model


KEPT = cache(made) # for peers in one process, each of which gets a copy on the GPU


def load(name, device, dtype):
    "Tokenizer and model."
    model = made(name) if device.type == "cpu" else copy.deepcopy(KEPT(name))
    return load_tokenizer(str(TINY)), model.to(device, getattr(torch, dtype))


@dataclass
class Texts:
    "Texts to measure, a set of marks of each, and whether peers take them as one padded batch or one by one."
    encoded: list[Encoded]
    marks: list[np.ndarray]
    padded: bool

    @property
    def longest(self) -> int: return max(map(len, self.encoded))
    @property
    def groups(self) -> list[list[int]]:
        every = list(range(len(self.encoded)))
        return [every] if self.padded else [[i] for i in every]


def random_texts(lengths: list[int], vocab: int, padded: bool = False) -> Texts:
    "Texts of random tokens, as unevenly frequent as words are so that some come again, and a tenth of all marked."
    rng, encoded = np.random.default_rng(0), []
    for n in lengths:
        ids = ((rng.zipf(1.3, n) - 1) % vocab).tolist()
        encoded.append(Encoded("", ids, [""]*n, [(0, 0)]*n))
    return Texts(encoded, [rng.random(n) < .1 for n in lengths], padded)


# ── the seven statistics from patterns

@dataclass
class Batch:
    "Some texts as a model's inputs, and the seven statistics from a layer's patterns of them."
    encoded: list[Encoded]
    marks: list[np.ndarray]
    inputs: dict[str, Tensor]

    @cached_property
    def real(self): return self.inputs["attention_mask"].bool()
    @cached_property
    def place(self): return self.real.cumsum(-1) - 1
    @cached_property
    def first(self): return self.real.int().argmax(-1)
    @cached_property
    def weights(self) -> Tensor:
        "Each key's mark and place in two columns: one product gives the mass on marks and the mean place."
        out = torch.zeros(*self.real.shape, 2, device=self.real.device)
        out[self.real] = torch.cat([torch.stack([torch.from_numpy(m).float(), torch.arange(len(m)).float()], -1)
                                    for m in self.marks]).to(out.device)
        return out[:, None]
    @cached_property
    def after(self) -> Tensor:
        "For each query the key after its token's last earlier occurrence; −1 where there is none before the query."
        out = torch.full(self.real.shape, -1)
        for row, text, start in zip(out, self.encoded, self.first.tolist()):
            seen = {}
            for i, token in enumerate(text.ids, start):
                if token in seen and seen[token] + 1 < i: row[i] = seen[token] + 1
                seen[token] = i
        return out.to(self.real.device)

    def at(self, attn, key):
        "Each query's mass on one key of its own."
        return attn.gather(-1, key.clamp(min=0)[:, None, :, None].expand(*attn.shape[:3], 1))[..., 0]

    def __call__(self, attn: Tensor) -> dict[str, Tensor]:
        "Each statistic as (text, head)."
        attn, real, later = attn.float(), self.real, self.place > 0
        mass, place = (attn @ self.weights).unbind(-1)
        marked = real & ((self.weights[:, 0, :, 0]).cumsum(-1) > 0)
        return dict(zip(STATS, (
            mean(row_entropy(attn), real), mean(attn.amax(-1), real),
            mean(self.place[:, None] - place, real), mean(self.at(attn, self.first[:, None].expand_as(real)), real),
            mean(attn.diagonal(-1, 2, 3), (real & later)[:, 1:]), mean(self.at(attn, self.after), self.after >= 0),
            mean(mass, marked))))


def row_entropy(attn):
    "Each row's entropy in nats: head by head in place, three times as fast as `torch.special.entr` of all at once."
    return torch.stack([-a.clamp(min=1e-30).log_().mul_(a).sum(-1) for a in attn.unbind(1)], 1)


def mean(values, rows):
    "The mean over the query rows that count; NaN where none does."
    return torch.where(rows[:, None], values, 0.).sum(-1) / rows.sum(-1, keepdim=True)


# ── peers: each `setup(tokenizer, model)` gives a function from texts to statistics as (text, layer, head)

def attn_lit(tokenizer, model):
    "One call for all texts, in the batches that it makes by itself unless one padded batch is asked for."
    stats = [name for name in STATS if not name.startswith("marked:")]
    def run(texts):
        size = len(texts.encoded)*texts.longest if texts.padded else None
        return head_statistics(texts.encoded, tokenizer, model, stats, {"m": texts.marks}, batch_tokens=size)
    return run


def grouped(setup):
    "Makes a setup from one whose function takes a batch and gives one dict of (text, head) a layer."
    def ready(tokenizer, model):
        measure = setup(tokenizer, model)
        def run(texts):
            out = {}
            for group in texts.groups:
                encoded, marks = [texts.encoded[i] for i in group], [texts.marks[i] for i in group]
                layers = measure(Batch(encoded, marks, pad_batch(encoded, tokenizer, model)))
                for name in layers[0] if layers else ():
                    out.setdefault(name, []).append(torch.stack([layer[name] for layer in layers], 1))
            return {name: torch.cat(values).cpu().numpy() for name, values in out.items()}
        return run
    return ready


@grouped
def plain(tokenizer, model):
    def measure(batch): model(**batch.inputs, use_cache=False)
    return measure


@grouped
def stopped(tokenizer, model):
    "The floor: as far as the last layer's attention, which whoever reads all heads needs; nothing is read."
    def stop(module, args): raise Enough
    def measure(batch):
        with suppress(Enough): model.base_model(**batch.inputs, use_cache=False)
    Parts(model).out_projs[-1].register_forward_pre_hook(stop)
    return measure


def with_attentions(model, body):
    "`body`'s patterns of all layers, then their statistics."
    model.set_attn_implementation("eager")
    def measure(batch):
        return [batch(a) for a in body(**batch.inputs, output_attentions=True, use_cache=False).attentions]
    return measure


@grouped
def eager(tokenizer, model): return with_attentions(model, model)


@grouped
def eager_base(tokenizer, model): return with_attentions(model, model.base_model)


@grouped
def eager_hooks(tokenizer, model):
    "Each layer's patterns are reduced as they come, so that only one layer's are ever held."
    model.set_attn_implementation("eager")
    parts, now = Parts(model), {}
    def hook(module, args, out): now["found"].append(now["batch"](out[1]))
    for block in parts.blocks: parts.attention(block).register_forward_hook(hook)
    def measure(batch):
        now.update(batch=batch, found=[])
        model.base_model(**batch.inputs, use_cache=False)
        return now["found"]
    return measure


def with_cache(tokenizer, model, names_filter):
    "TransformerLens's cache, then the statistics of its patterns."
    bridge = bridged(tokenizer, model)
    def measure(batch):
        _, cache = bridge.run_with_cache(batch.inputs["input_ids"], names_filter=names_filter)
        return [batch(cache[f"blocks.{i}.attn.hook_pattern"]) for i in range(bridge.cfg.n_layers)]
    return measure


@grouped
def lens(tokenizer, model): return with_cache(tokenizer, model, None)


@grouped
def lens_patterns(tokenizer, model): return with_cache(tokenizer, model, lambda name: name.endswith("hook_pattern"))


@grouped
def nnsight(tokenizer, model):
    "The statistics are taken inside the trace, so that only one layer's patterns are ever held."
    from nnsight import NNsight
    model.set_attn_implementation("eager")
    parts, names = Parts(model), {m: n for n, m in model.base_model.named_modules()}
    wrapped = NNsight(model.base_model)
    def traced(module): return reduce(lambda e, k: e[int(k)] if k.isdigit() else getattr(e, k),
                                      names[module].split("."), wrapped)
    attentions = [traced(parts.attention(b)) for b in parts.blocks]
    def measure(batch):
        found = []
        with wrapped.trace(**batch.inputs, use_cache=False):
            found.extend(batch(attention.output[1]) for attention in attentions)
        return found
    return measure


@dataclass
class Peer:
    "One way to the statistics, and how many S × S tensors a head it holds: one for each layer, and beside those."
    label: str
    setup: Callable # from tokenizer and model to a function from texts to statistics
    a_layer: int = 0
    beside: int = 0
    pads: bool = True # takes texts of different lengths in one batch
    needs: str = "torch" # what must be installed

    def patterns(self, texts: Texts, layers: int, heads: int) -> int:
        "Bytes of attention that it holds at once, in float32."
        side = len(max(texts.groups, key=len)) * texts.longest**2
        return 4*side*heads*(self.a_layer*layers + self.beside)


PEERS = dict(
    plain=Peer("plain forward", plain), attn_lit=Peer("attn_lit", attn_lit),
    stopped=Peer("the floor: to the last attention", stopped),
    eager=Peer("transformers eager", eager, 1, 2),
    eager_base=Peer("eager, no unembedding", eager_base, 1, 2),
    eager_hooks=Peer("eager, layer by layer", eager_hooks, 0, 3),
    nnsight=Peer("nnsight, layer by layer", nnsight, 0, 4, needs="nnsight"),
    lens=Peer("TransformerLens, all", lens, 2, 3, False, "transformer_lens"),
    lens_patterns=Peer("TransformerLens, patterns", lens_patterns, 1, 3, False, "transformer_lens"))
