"""gpt2's numbers as others published them: marked `hub`, run where its weights can be had, else skipped and told why.

Each measurement is a function of tokenizer and model, and runs here on small models too, with an answer that is known.
With HF_HUB_OFFLINE=0 the weights are looked for on the hub, and not to find them is an error.
"""
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_data_files import real
from torch.nn.functional import cross_entropy

from attn_lit.attention import eager
from attn_lit.base import InputError
from attn_lit.bias import Pair
from attn_lit.entropy import TEXTS
from attn_lit.formats import bias_items
from attn_lit.intervene import intervened
from attn_lit.mediation import continuation_cases, indirect_effect
from attn_lit.models import Parts, encode, load_model, pad_batch, random_model
from attn_lit.neurons import recorded
from attn_lit.patterns import from_ids, pattern_scores
from attn_lit.stream import batches, head_statistics

hub = pytest.mark.hub


@pytest.fixture(scope="module")
def gpt2():
    try: return load_model("gpt2", device="cpu", dtype="float32")
    except InputError as error:
        if os.environ["HF_HUB_OFFLINE"] == "0": raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tiny(): return load_model("tiny", device="cpu")


def at(name): return tuple(map(int, name.split(".")))


def leading(scores, k):
    "The `k` heads with the largest scores, as layer.head."
    return ["{}.{}".format(*np.unravel_index(i, np.shape(scores))) for i in np.argsort(-np.ravel(scores))[:k]]


# ── Random tokens told twice

@hub
def test_leading_induction_heads(gpt2):
    "Several public reproductions."
    scores = pattern_scores(*gpt2, controls=False)["induction"].effect
    assert set(leading(scores, 5)) == {"5.1", "5.5", "6.9", "7.2", "7.10"}


@hub
def test_leading_previous_token_heads(gpt2):
    "TransformerLens, Head_Detector_Demo."
    scores = pattern_scores(*gpt2, controls=False)["previous"].effect
    assert leading(scores, 1) == ["4.11"] and "2.2" in leading(scores, 5)


def of_the_demo(tokenizer, model):
    "Scores on the tokens of TransformerLens's Exploratory_Analysis_Demo: 2 × 100 from seed 0, told twice, no BOS."
    ids = torch.randint(100, 20000, (2, 100), generator=torch.Generator().manual_seed(0)).tolist()
    found = head_statistics([from_ids(row + row, tokenizer) for row in ids], tokenizer, model,
                            ("previous", "duplicate", "induction"))
    return {name: scores.mean(0) for name, scores in found.items()}, ids


@hub
def test_scores_of_the_demo(gpt2):
    "As printed and plotted there; its induction score has one query more, of a hundred, at the end of the first copy."
    found, _ = of_the_demo(*gpt2)
    for name, head, score in [("previous", "2.2", .482), ("previous", "4.11", .992), ("previous", "3.7", .529),
                              ("duplicate", "0.5", .703), ("duplicate", "3.0", .678)]:
        assert found[name][at(head)] == pytest.approx(score, abs=.001), (name, head)
    assert .1315 <= found["duplicate"][0, 1] <= .1345
    for head, score in {"5.1": .931, "6.9": .926, "5.5": .926, "7.10": .904, "7.2": .851}.items():
        assert found["induction"][at(head)] == pytest.approx(score, abs=.012), head


def test_the_measurement_of_the_demo(tiny):
    "Its tokens, none twice in a copy, and its diagonals, from the patterns of a model that knows so many tokens."
    model = random_model("gpt2", vocab=20000, max_position_embeddings=256)
    for block in model.transformer.h: torch.nn.init.normal_(block.attn.c_attn.weight)
    found, ids = of_the_demo(tiny[0], model)
    assert ids[0][:5] == [1044, 3539, 10733, 15360, 18263] and [len(set(row)) for row in ids] == [100, 100]
    with torch.no_grad(), eager(model):
        attn = torch.stack(model(torch.tensor([row + row for row in ids]), output_attentions=True).attentions).mean(1)
    def back(k, start=0): return attn.diagonal(-k, dim1=-2, dim2=-1)[..., start:].mean(-1)
    for name, expected in dict(previous=back(1), duplicate=back(100), induction=back(99, 1)).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    assert found["previous"].std() > .001


def test_leading(tiny):
    assert leading([[.1, .5], [.4, .2]], 3) == ["0.1", "1.0", "1.1"] and at("11.10") == (11, 10)
    scores = pattern_scores(*tiny, controls=False)
    assert set(leading(scores["induction"].effect, 5)) == {"3.0", "3.1", "3.4", "3.6", "3.7"}
    assert leading(scores["previous"].effect, 2) == ["2.0", "0.3"]


# ── Indirect-object identification

# The forms of Wang et al. 2022 (arXiv 2211.00593, appendix): S is told twice and gives, IO is told once and receives.
# Each is read with the names in this order and in the other. Names, places and things are our own choice, common words
# that are one token for gpt2; those that are not under another tokenizer are left out.
FORMS = [
    "Then, {S} and {IO} went to the {place}. {S} gave a {thing} to",
    "Then, {S} and {IO} had a lot of fun at the {place}. {S} gave a {thing} to",
    "Then, {S} and {IO} were working at the {place}. {S} decided to give a {thing} to",
    "Then, {S} and {IO} were thinking about going to the {place}. {S} wanted to give a {thing} to",
    "Then, {S} and {IO} had a long argument, and afterwards {S} said to",
    "After {S} and {IO} went to the {place}, {S} gave a {thing} to",
    "When {S} and {IO} got a {thing} at the {place}, {S} decided to give it to",
    "When {S} and {IO} got a {thing} at the {place}, {S} decided to give the {thing} to",
    "While {S} and {IO} were working at the {place}, {S} gave a {thing} to",
    "While {S} and {IO} were commuting to the {place}, {S} gave a {thing} to",
    "After the lunch, {S} and {IO} went to the {place}. {S} gave a {thing} to",
    "Afterwards, {S} and {IO} went to the {place}. {S} gave a {thing} to",
    "Then, {S} and {IO} had a long argument. Afterwards {S} said to",
    "The {place} {S} and {IO} went to had a {thing}. {S} gave it to",
    "Friends {S} and {IO} found a {thing} at the {place}. {S} gave it to",
]
NAMES = """Adam Alan Alex Alice Amy Andrew Anna Anthony Arthur Brian Charles Chris Daniel David Edward Emily Emma Eric
Frank George Henry Ian Jack Jacob James Jane Jason Jennifer Jessica John Joseph Julia Justin Kate Kelly Kevin Laura Leo
Lisa Louis Lucy Luke Maria Mark Martin Mary Matthew Max Michael Nick Nicole Oliver Oscar Patrick Paul Peter Rachel
Richard Robert Rose Ruth Ryan Sam Sarah Scott Simon Stephen Steve Susan Thomas Tim Tom Victoria Walter
William""".split()
PLACES = "store park school hospital office restaurant garden station house library".split()
THINGS = "ring drink book computer necklace snack basketball letter ball kiss".split()
# Those of the Exploratory_Analysis_Demo, each with either name as the one who gives; read after a BOS.
DEMO = [("When John and Mary went to the shops, {} gave the bag to", "Mary", "John"),
        ("When Tom and James went to the park, {} gave the ball to", "Tom", "James"),
        ("When Dan and Sid went to the shops, {} gave an apple to", "Dan", "Sid"),
        ("After Martin and Amy went to the park, {} gave a drink to", "Martin", "Amy")]


def one_token(words, tokenizer): return [w for w in words if len(encode(" " + w, tokenizer).ids) == 1]


def prompts_of(tokenizer, per_form, seed=0):
    "(prompt, IO, S, number of the form) for each form, the names in either order."
    rng, names, out = np.random.default_rng(seed), one_token(NAMES, tokenizer), []
    swapped = [form.replace("{S}", "{X}", 1).replace("{IO}", "{S}", 1).replace("{X}", "{IO}", 1) for form in FORMS]
    for number, form in enumerate(FORMS + swapped):
        for _ in range(per_form):
            io, s = rng.choice(names, 2, replace=False)
            words = dict(place=rng.choice(PLACES), thing=rng.choice(THINGS))
            out.append((form.format(IO=io, S=s, **words), f" {io}", f" {s}", number))
    return out


def demo_prompts(tokenizer):
    "The demo's eight, in its order."
    return [(tokenizer.bos_token + form.format(s), f" {io}", f" {s}", number)
            for number, (form, *names) in enumerate(DEMO) for io, s in (names, names[::-1])]


def answers(prompts, tokenizer):
    "The tokens of each prompt's IO and S."
    return [[encode(name, tokenizer).ids[-1] for name in names] for _, *names, _ in prompts]


@torch.no_grad()
def logit_differences(prompts, tokenizer, model):
    "Logit of IO − logit of S after each prompt."
    encoded, out = [encode(p, tokenizer) for p, *_ in prompts], np.empty(len(prompts))
    pairs = answers(prompts, tokenizer)
    for index in batches([len(e) for e in encoded], 2048):
        logits = model(**pad_batch([encoded[i] for i in index], tokenizer, model, "right")).logits
        for row, i in zip(logits, index):
            io, s = pairs[i]
            out[i] = row[len(encoded[i]) - 1, io] - row[len(encoded[i]) - 1, s]
    return out


@torch.no_grad()
def direct_effects(prompts, tokenizer, model, fold=False):
    """What each head of a gpt2 adds to IO − S itself, the scale of the final norm as it is: (prompt, layer, head).

    With `fold`, the constant that a head's value bias adds is not counted, as where it is folded into the output's.
    """
    parts, out, d = Parts(model), [], Parts(model).d_model
    for (prompt, *_), (io, s) in zip(prompts, answers(prompts, tokenizer)):
        with recorded(parts.out_projs) as heads, recorded([parts.final_norm]) as last:
            model(**pad_batch([encode(prompt, tokenizer)], tokenizer, model))
        way = (parts.unembed.weight[io] - parts.unembed.weight[s])*parts.final_norm.weight
        way = (way - way.mean()) / (last[0][0, -1].var(correction=0) + parts.final_norm.eps).sqrt()
        z = torch.stack([heads[l][0, -1] for l in range(parts.n_layers)])
        if fold: z = z - torch.stack([block.attn.c_attn.bias[2*d:] for block in parts.blocks])
        along = torch.stack([module.weight @ way for module in parts.out_projs]) # raw columns
        out.append((z*along).unflatten(-1, (parts.n_heads, -1)).sum(-1))
    return torch.stack(out).numpy()


def mean_by_form(values, prompts):
    "The mean over prompts and its standard error, forms drawn as wholes."
    number = np.array([n for *_, n in prompts])
    means = np.array([values[number == n].mean() for n in np.unique(number)])
    return values.mean(), means.std(ddof=1)/len(means)**.5


@hub
def test_ioi_logit_difference(gpt2):
    "Wang et al.: 3.56 and 99.3 % over 100,000 prompts. Here there are 960 with other names, so within three errors."
    prompts = prompts_of(gpt2[0], 32)
    found = logit_differences(prompts, *gpt2)
    mean, error = mean_by_form(found, prompts)
    assert abs(mean - 3.56) <= 3*error, f"{mean:.2f} ± {error:.2f}"
    assert abs((found > 0).mean() - .993) <= 3*(.993*.007/len(found))**.5


@hub
def test_ioi_of_the_demo(gpt2):
    "Exploratory_Analysis_Demo: each prompt's logit difference, and what heads add, value biases folded."
    prompts = demo_prompts(gpt2[0])
    np.testing.assert_allclose(logit_differences(prompts, *gpt2),
                               [3.337, 3.202, 2.709, 3.797, 1.720, 5.281, 2.601, 5.767], atol=.005)
    effects = direct_effects(prompts, *gpt2, fold=True).mean(0)
    for head, effect in {"9.9": 2.985, "9.6": 1.384, "10.0": .561, "10.7": -1.899, "11.10": -.970}.items():
        assert effects[at(head)] == pytest.approx(effect, abs=.01), head


@hub
def test_ioi_name_movers(gpt2):
    "Wang et al.: three heads write the IO's name, two write against it."
    effects = direct_effects(prompts_of(gpt2[0], 8), *gpt2).mean(0)
    assert set(leading(effects, 3)) == {"9.9", "10.0", "9.6"} and set(leading(-effects, 2)) == {"10.7", "11.10"}


def cost(heads, prompts, tokenizer, model):
    "How much the mean logit difference falls without these heads."
    with intervened(model, heads): without = logit_differences(prompts, tokenizer, model)
    return logit_differences(prompts, tokenizer, model).mean() - without.mean()


def random_sets(heads, n_heads, n, seed=0):
    "Sets with as many other heads of each layer."
    rng, layers = np.random.default_rng(seed), [l for l, _ in heads]
    def others(l): return [h for h in range(n_heads) if (l, h) not in heads]
    return [[(l, int(h)) for l in sorted(set(layers)) for h in rng.choice(others(l), layers.count(l), replace=False)]
            for _ in range(n)]


@hub
def test_ioi_s_inhibition_heads(gpt2):
    "Wang et al. name four. Without them it falls by more than without any of 19 random sets of the same layers."
    heads, prompts = [(7, 3), (7, 9), (8, 6), (8, 10)], prompts_of(gpt2[0], 4)
    costs = [cost(some, prompts, *gpt2) for some in random_sets(heads, 12, 19)]
    assert cost(heads, prompts, *gpt2) > max(costs)


def test_prompts(tiny):
    prompts = prompts_of(tiny[0], 2)
    assert len(prompts) == 2*len(FORMS)*2 and len(set(prompts)) > 55
    for prompt, io, s, number in prompts:
        assert prompt.count(s) == 2 - prompt.startswith(s[1:]) and prompt.count(io) == 1 and prompt.endswith(" to")
        assert (prompt.index(s) < prompt.index(io)) == (number < len(FORMS)) and not set("{}") & set(prompt)
    assert prompts == prompts_of(tiny[0], 2) != prompts_of(tiny[0], 2, seed=1)
    demo = demo_prompts(tiny[0])
    assert len(demo) == 8 and demo[0] == ("<|endoftext|>When John and Mary went to the shops, John gave the bag to",
                                          " Mary", " John", 0)
    assert encode(demo[0][0], tiny[0]).ids.count(tiny[0].bos_token_id) == 1


def test_the_measurement_of_logit_differences(tiny):
    "A model whose logit is minus the number of times that a token was read: IO − S is −1 − (−2), always."
    tokenizer, _ = tiny
    actor = random_model("gpt2", n_layers=1, vocab=len(tokenizer))
    def count(input_ids, **_):
        return SimpleNamespace(logits=-torch.nn.functional.one_hot(input_ids, len(tokenizer)).cumsum(1).float())
    actor.forward = count
    prompts = prompts_of(tokenizer, 2)
    found = logit_differences(prompts, tokenizer, actor)
    assert (found == 1).all() and mean_by_form(found, prompts) == (1, 0)
    one_by_one = [logit_differences([p], *tiny)[0] for p in prompts[:6]]
    np.testing.assert_allclose(logit_differences(prompts[:6], *tiny), one_by_one, atol=1e-4)


@torch.no_grad()
def test_the_measurement_of_direct_effects(tiny):
    "With what embeddings, MLPs and biases add, it is the logit difference; a constant that heads add is folded."
    tokenizer, model = tiny
    prompts, parts = prompts_of(tokenizer, 1)[:3], Parts(model)
    effects = direct_effects(prompts, tokenizer, model)
    for prompt, effect, (io, s) in zip(prompts, effects, answers(prompts, tokenizer)):
        inputs = pad_batch([encode(prompt[0], tokenizer)], tokenizer, model)
        with recorded(parts.blocks[:1]) as start, recorded(parts.down_projs, output=True) as mlps, \
                recorded([parts.final_norm]) as last: logits = model(**inputs).logits[0, -1]
        norm, u = parts.final_norm, parts.unembed.weight[io] - parts.unembed.weight[s]
        x = last[0][0, -1]
        way = u*norm.weight - (u*norm.weight).mean()
        rest = start[0][0, -1] + sum(m[0, -1] for m in mlps.values()) + sum(m.bias for m in parts.out_projs)
        total = effect.sum() + rest @ way/(x.var(correction=0) + norm.eps).sqrt() + u @ norm.bias
        assert total.item() == pytest.approx((logits[io] - logits[s]).item(), abs=1e-3)
    biased = random_model("gpt2", vocab=len(tokenizer))
    plain = direct_effects(prompts, tokenizer, biased)
    np.testing.assert_allclose(direct_effects(prompts, tokenizer, biased, fold=True), plain, atol=1e-7)
    biased.transformer.h[-1].attn.c_attn.bias[64:] = 3.
    constant = direct_effects(prompts, tokenizer, biased) - direct_effects(prompts, tokenizer, biased, fold=True)
    assert np.abs(constant[:, 0]).max() < 1e-7 < np.abs(constant[:, 1]).min()


def test_the_measurement_of_sets(tiny):
    tokenizer, model = tiny
    heads, prompts = [(2, 0), (3, 0), (3, 4)], prompts_of(tokenizer, 1)[:6]
    sets = random_sets(heads, 8, 5)
    assert sets == random_sets(heads, 8, 5) and not {h for some in sets for h in some} & set(heads)
    assert [[l for l, _ in some] for some in sets] == [[2, 3, 3]]*5 and all(len(set(some)) == 3 for some in sets)
    assert cost([], prompts, tokenizer, model) == 0 != cost(heads, prompts, tokenizer, model)


# ── Text of the web

def text_loss(documents, tokenizer, model, n, length=1024):
    "Loss of `n` blocks of `length` tokens from documents one after the other, each closed by the end of text."
    stream, ids, out = iter(documents), [], []
    for _ in range(n):
        while len(ids) <= length: ids += tokenizer(next(stream))["input_ids"] + [tokenizer.eos_token_id]
        block, ids = torch.tensor([ids[:length + 1]]), ids[length:]
        with torch.no_grad(): logits = model(block[:, :-1]).logits
        out.append(float(cross_entropy(logits[0].float(), block[0, 1:])))
    return np.array(out)


@hub
def test_loss_on_openwebtext(gpt2):
    "nanoGPT: 3.12 on its held-out part. Here are 64 blocks of 1,024 tokens from the beginning: within three errors."
    from datasets import load_dataset
    try:
        rows = load_dataset("Skylion007/openwebtext", split="train", streaming=True)
        found = text_loss((row["text"] for row in rows), *gpt2, 64)
    except Exception as error: # the data set is not on this machine, or the hub has it in another form now
        pytest.skip(f"OpenWebText cannot be had: {' '.join(str(error).split())[:200]}")
    error = found.std(ddof=1)/len(found)**.5
    assert abs(found.mean() - 3.12) <= 3*error, f"{found.mean():.3f} ± {error:.3f}"


def test_the_measurement_of_text_loss(tiny):
    "As transformers has it, block by block; a block's last token is the next one's first."
    tokenizer, model = tiny
    found = text_loss(TEXTS, tokenizer, model, 4, length=64)
    ids = sum(([*tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in TEXTS), [])
    for i, loss in enumerate(found):
        logp = model(torch.tensor([ids[64*i:64*i + 64]])).logits[0].log_softmax(-1)
        assert loss == pytest.approx(-np.mean([logp[k, ids[64*i + k + 1]].item() for k in range(64)]), abs=1e-4)


# ── WinoBias

def winobias_effects(tokenizer, model, folder, few=None):
    "Vig et al.'s indirect effects on the development set, type 1: of all cases, and of those that their filter keeps."
    rows = bias_items(folder, split="dev").rows
    pairs = [Pair(**{k: v for k, v in row.items() if k != "split"}) for row in rows if row["kind"] == "type1"]
    everything = indirect_effect(continuation_cases(pairs)[:few], tokenizer, model, n=1)
    kept = everything.total > np.quantile(everything.total[everything.total > 0], .25)
    return everything, everything.scores[kept]


@hub
def test_winobias_indirect_effects(gpt2):
    """Vig et al. 2020: means over the 87 of 160 cases that pass their filter.

    One case is no pair by our reading, as its line has other words with the other pronoun. Their released results of
    single cases are averaged here without it, 86 of 159 cases: .0548 for 5.8 instead of .0549, and so on.
    """
    everything, filtered = winobias_effects(*gpt2, real("bias/winobias"))
    effects = filtered.mean(0)
    assert (len(everything.scores), len(filtered)) == (159, 86) and leading(effects, 4) == ["5.8", "5.10", "4.6", "5.9"]
    for head, effect in {"5.8": .0548, "5.10": .0353, "4.6": .0316, "5.9": .0295}.items():
        assert effects[at(head)] == pytest.approx(effect, abs=.0005), head
    for head, effect in {"5.8": .0306, "5.10": .0212, "4.6": .0189, "5.9": .0175}.items(): # of all cases
        assert everything.effect[at(head)] == pytest.approx(effect, abs=.0005), head


def test_the_measurement_of_winobias(tiny):
    everything, filtered = winobias_effects(*tiny, real("bias/winobias"), few=12)
    assert everything.scores.shape == (12, 4, 8) and 0 < len(filtered) < 12
