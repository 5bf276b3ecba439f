"The self-test of a model: what it says of the families, and of a run. `python tests/test_selftest.py` prints them all."
import inspect
import sys
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from families import CAUSAL, HYBRID, small
from transformers import GPT2Model

from attn_lit.base import InputError
from attn_lit.command import main as main_command
from attn_lit.models import load_model
from attn_lit.selftest import CHECKS, self_test

INTERVENTIONS = ["intervention acts", "intervention is gone"]
NOT_KNOWN = {"jetmoe", "qwen3_next", "jamba", "bamba", "lfm2", "recurrent_gemma", "granitemoehybrid", "zamba2"}
FAILS = { # what fails in families of these versions of transformers, and it does
    "falcon_alibi": ["reading changes nothing"], # its eager path adds ALiBi otherwise than its sdpa path
    "mamba": ["attention to read"], "rwkv": ["attention to read"]}


@cache
def tokenizer(): return load_model("tiny")[0]


def on_family(name, dtype=torch.float32):
    "The self-test of one family's small random model."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore") # that patterns are formed
        return self_test(tokenizer(), small(name, vocab=len(tokenizer())).to(dtype))


def check_family(found, name):
    "It fails where it should, and what is not asked is what the library does not know of this family."
    assert [c.name for c in found.failed] == FAILS.get(name, []), (name, found.failure)
    asked_not = {c.name for c in found.checks if c.passed is None}
    if "attention to read" in FAILS.get(name, []): assert len(asked_not) == len(CHECKS) - 4, name
    else: assert asked_not == {*INTERVENTIONS*(name in NOT_KNOWN), *["number format"]*(found.dtype == "float32")}, name


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "mistral", "qwen3_moe", "gemma3", "gpt_oss", "deepseek_v3",
                                  "falcon_alibi", "bloom", "jetmoe", "lfm2", "mamba"])
def test_family(name): check_family(on_family(name), name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    "A dense model, one that caps scores, and one with experts."
    for name in ("llama", "gemma2", "mixtral"): assert not on_family(name, dtype).failure


def test_an_encoder_is_refused():
    with pytest.raises(InputError, match="encoder-only"): on_family("bert")


@pytest.fixture
def leaky(monkeypatch):
    "Every model that is loaded attends to padding."
    forward = GPT2Model.forward
    def seeing(self, *args, attention_mask=None, **kwargs):
        return forward(self, *args, attention_mask=torch.ones_like(attention_mask), **kwargs)
    seeing.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(GPT2Model, "forward", seeing)


def said(capsys, *args):
    "What the command prints, to both streams, and its exit code."
    with pytest.raises(SystemExit) as stop: main_command([str(a) for a in args])
    return *capsys.readouterr(), stop.value.code


def test_check_prints_the_table(capsys):
    out, err, code = said(capsys, "check", "--model", "tiny")
    assert [code, err] == [0, ""] and out.count("passed ") == len(CHECKS) - 1 and "FAILED" not in out
    assert all(f" {name} " in out for name in CHECKS) and "GPT2LMHeadModel, float32 on cpu" in out


def test_check_fails_with_a_sentence_and_a_code(capsys, leaky):
    out, err, code = said(capsys, "check", "--model", "tiny")
    assert code == 2 and "FAILED     padding left: logits" in out
    assert len(err.splitlines()) == 1 and "GPT2LMHeadModel in float32 fails its self-test: padding left: logits" in err


def main(dtypes):
    "Prints what fails or is not asked of every family, and the largest differences."
    gaps, odd = {}, []
    for name in (*CAUSAL, *HYBRID):
        for dtype in dtypes or ("float32",):
            found = on_family(name, getattr(torch, dtype))
            values = {c.name: c.value for c in found.checks if c.bound and c.bound < 1 and c.value is not None}
            gaps.setdefault(dtype, {})[name] = max(values.items(), key=lambda x: x[1], default=("", 0.))
            notes = [f"FAILED {c.name}: {c.value:.2g} > {c.bound:.2g}" for c in found.failed]
            asked_not = [c.name for c in found.checks if c.passed is None and c.name != "number format"]
            notes += [f"not asked: {', '.join(asked_not)}"]*bool(asked_not)
            worst, gap = gaps[dtype][name]
            print(f"{name:24} {dtype:9} {found.seconds:4.1f} s  {worst:24} {gap:.1e}  {'; '.join(notes)}", flush=True)
            if [c.name for c in found.failed] != FAILS.get(name, []): odd.append((name, dtype))
    for dtype, each in gaps.items():
        sound = {name: gap for name, (_, gap) in each.items() if name not in FAILS}
        print(f"{dtype}: {len(each)} families, largest difference {max(sound.values()):.2g} "
              f"({max(sound, key=sound.get)}), median {np.median(list(sound.values())):.2g}")
    sys.exit(f"other than noted: {odd}" if odd else 0)


if __name__ == "__main__": main(sys.argv[1:])
