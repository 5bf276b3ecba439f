"The command line end to end: what a stranger types, and what they are told when it cannot be."
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from transformers import AutoConfig

from attn_lit.models import load_model, random_model
from attn_lit.record import results_schema

STORIES = Path(__file__).parents[2]/"shared/data/models/stories260K"
FIGURES = {"entropy_heatmap.png", "sentiment_head_correlations.png", "bias_differential_heads.png",
           "instruction_following_heads.png", "head_summary_overview.png", "ablation_matrix.png",
           "sentiment_causal.png", "bias_causal.png", "instruction_causal.png"}


def attn_lit(*args, **kwargs):
    "Runs the command in a process of its own, with the hub out of reach."
    command = [sys.executable, "-m", "attn_lit", *map(str, args)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, **kwargs)


def test_a_whole_run(whole_run):
    result, folder = whole_run
    assert result.returncode == 0, result.stderr
    found = json.loads((folder/"analysis_results.json").read_text())
    jsonschema.validate(found, results_schema())
    names = set(found["figures"])
    assert names == {p.name for p in folder.glob("*.png")} and names >= FIGURES
    for layer in range(4):
        assert {f"layer_{layer}_all_heads.png", f"neurons_L{layer}.png"} <= names
        assert any(re.fullmatch(rf"attn_L{layer}_H\d+\.png", n) for n in names)
    assert "analysis_results.json" in result.stdout and "sentiment: 0 of 32 heads" in result.stdout
    assert "\n  none\n" in result.stdout and "Described, not tested: entropy" in result.stdout
    assert "no head is flagged; of the 5 largest" in result.stdout and "flagged heads" in result.stdout
    assert {"heads.csv", "heads.parquet", "causal.csv", "plan.yaml"} <= {p.name for p in folder.iterdir()}
    assert found["provenance"]["arguments"]["model"] == "tiny" and found["status"] == "complete"


@pytest.mark.skipif(not STORIES.is_dir(), reason="the shared model stories260K is not beside this clone")
def test_a_local_folder(tmp_path):
    result = attn_lit("run", "--model", STORIES, "--quick", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path/"analysis_results.json").read_text())
    jsonschema.validate(found, results_schema())
    assert found["provenance"]["model"] == "stories260K"


def test_skip_takes_several_names(tmp_path):
    result = attn_lit("run", "--model", "tiny", "--quick", "--skip", "neurons", "bias,instruction", "--no-causal",
                      "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path/"analysis_results.json").read_text())
    assert found["skipped"] == ["neurons", "bias", "instruction"] and not set(found["skipped"]) & set(found["analyses"])
    assert not (tmp_path/"bias_differential_heads.png").exists()
    assert found["causal"] == {} and "causal" not in found["seconds"] and not list(tmp_path.glob("*causal*"))


def rows(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def broken(path):
    path.write_text('{"text": "A good fox.", "label": 1}\n{not json\n')
    return path


def encoder(folder):
    AutoConfig.for_model("bert").save_pretrained(folder)
    return folder


def seq2seq(folder):
    AutoConfig.for_model("t5").save_pretrained(folder)
    return folder


BAD = {
    "unknown model": (lambda t: ["--model", "no-such-team/no-such-model"], "--model tiny"),
    "gpt2 with no network": (lambda t: ["--model", "gpt2-of-nobody"], "local model folder"),
    "missing folder": (lambda t: ["--model", t/"nowhere"], "There is no folder"),
    "folder that is no model": (lambda t: ["--model", t], "is no model"),
    "encoder": (lambda t: ["--model", encoder(t/"bert")], "encoder-only"),
    "sequence to sequence": (lambda t: ["--model", seq2seq(t/"t5")], "sequence-to-sequence"),
    "unknown skip": (lambda t: ["--skip", "entropy"], "sentiment, bias, instruction, neurons"),
    "out is a file": (lambda t: ["--out", rows(t/"file", [])], "Cannot write to --out"),
    "empty text": (lambda t: ["--text", " "], "is empty"),
    "long text": (lambda t: ["--text", "word "*600], "context is 512"),
    "layer": (lambda t: ["--layer", "4"], "layers 0 to 3"),
    "negative layer": (lambda t: ["--layer=-1"], "layers 0 to 3"),
    "head": (lambda t: ["--layer", "0", "--head", "8"], "heads 0 to 7"),
    "head alone": (lambda t: ["--head", "0"], "add --layer"),
    "device": (lambda t: ["--device", "cuda:99"], "is not there"),
    "dtype": (lambda t: ["--dtype", "int3"], "float32, bfloat16, float16"),
    "quantize": (lambda t: ["--quantize", "2bit"], "8bit, 4bit"),
    "quantize here": (lambda t: ["--quantize", "4bit"], "quantize='4bit' needs"),
    "no keyword": (lambda t: ["--sentiment-data",
                              rows(t/"t.jsonl", [dict(text="A fox.", label=i % 2) for i in range(6)])], "keyword"),
    "one label": (lambda t: ["--sentiment-data", rows(t/"t.jsonl", [dict(text="A good fox.", label=1)]*6)], "label"),
    "no column": (lambda t: ["--sentiment-data", rows(t/"t.jsonl", [dict(words="A fox.")])], "has the columns words"),
    "column that is not there": (lambda t: ["--columns", "text=body", "--sentiment-data",
                                            rows(t/"t.jsonl", [dict(text="A fox.", label=1)])], "no column 'body'"),
    "column without a name": (lambda t: ["--columns", "text"], "role=name"),
    "unknown role": (lambda t: ["--columns", "words=body"], "The column for 'words'"),
    "split of nothing": (lambda t: ["--split", "1"], "between 0 and 1"),
    "alpha": (lambda t: ["--alpha", "5"], "between 0 and 1"),
    "permutations": (lambda t: ["--permutations", "5"], "too few"),
    "no such split": (lambda t: ["--use-split", "dev", "--sentiment-data",
                                 rows(t/"t.jsonl", [dict(text="A good fox.", label=1)])], "has no split 'dev'"),
    "no lexicon": (lambda t: ["--lexicon", t/"words.txt"], "There is no lexicon"),
    "no plan": (lambda t: ["--plan", t/"plan.yaml"], "cannot be given with --plan"),
    "broken file": (lambda t: ["--sentiment-data", broken(t/"t.jsonl")], "Cannot read"),
    "empty file": (lambda t: ["--sentiment-data", rows(t/"t.jsonl", [])], "is empty"),
    "missing member": (lambda t: ["--pairs", rows(t/"p.jsonl", [dict(male=None, female="She left.")])],
                       "a member is missing"),
    "pair that differs elsewhere": (lambda t: ["--pairs", rows(t/"p.jsonl", [dict(
        male="The nurse lost his keys.", female="The doctor lost her keys.")])], "differ elsewhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case, tmp_path, one_sentence):
    arguments, says = BAD[case]
    more = arguments(tmp_path)
    if "--model" not in more: more += ["--model", "tiny"]
    if "--out" not in more: more += ["--out", tmp_path/"out"]
    assert says in one_sentence("run", "--quick", *more)


def test_a_process_of_its_own_says_the_same(tmp_path):
    result = attn_lit("run", "--model", "tiny", "--out", "/proc/attn_lit")
    assert result.returncode == 2 and result.stdout == "", result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Cannot write to --out" in result.stderr


def test_pickled_weights_are_refused(tmp_path, one_sentence):
    tokenizer, _ = load_model("tiny")
    model = random_model("gpt2", vocab=len(tokenizer))
    tokenizer.save_pretrained(tmp_path); model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path/"pytorch_model.bin")
    assert "safetensors" in one_sentence("run", "--model", tmp_path, "--out", tmp_path/"out")


def results(folder): return json.loads((folder/"analysis_results.json").read_text())


def test_a_plan_is_run_as_it_says(tmp_path):
    "Written by one command, run by another, refused when its data changed, and its digest is in the results."
    texts = [dict(review=f"A {word} day, number {i}.", stars=stars, split=split)
             for i, split in enumerate(["train"]*8 + ["test"]*8) for word, stars in (("good", 5), ("bad", 1))]
    data = rows(tmp_path/"reviews.jsonl", texts)
    words = tmp_path/"words.json"
    words.write_text('{"positive": ["good"], "negative": ["bad", "number"]}')
    asked = ["--model", "tiny", "--sentiment-data", data, "--columns", "text=review", "label=stars", "--lexicon", words,
             "--split", "0.5", "--skip", "bias", "instruction", "neurons", "--permutations", "200", "--quick"]
    written = attn_lit("plan", *asked)
    assert written.returncode == 0, written.stderr
    (plan := tmp_path/"plan.yaml").write_text(written.stdout)
    words.unlink() # its words are in the plan
    result = attn_lit("run", "--plan", plan, "--out", tmp_path/"planned")
    assert result.returncode == 0, result.stderr
    found = results(tmp_path/"planned")
    jsonschema.validate(found, results_schema())
    assert found["plan"] == dict(given=True, sha256=hashlib.sha256(plan.read_bytes()).hexdigest())
    assert found["analyses"]["sentiment"]["held_out"]["chosen_on"].startswith("train, 16")
    assert found["analyses"]["sentiment"]["words"]["keywords"] == 64 and "bias" not in found["analyses"]
    rows(tmp_path/"reviews.jsonl", texts[:-2])
    refused = attn_lit("run", "--plan", plan, "--out", tmp_path/"refused")
    assert refused.returncode == 2 and "data.sentiment.n_items" in refused.stderr
    assert not list(tmp_path.glob("refused/*"))


def test_a_plan_takes_no_other_options(tmp_path, one_sentence):
    assert "--alpha, --seed cannot be given" in one_sentence(
        "run", "--plan", tmp_path/"plan.yaml", "--seed", "1", "--alpha", ".01", "--out", tmp_path/"out")


def test_data_of_ones_own_without_controls(tmp_path):
    pairs = [dict(male=f"The {who} said that he {what}.", female=f"The {who} said that she {what}.", template=what)
             for what in ("left", "ran home", "was tired", "came back", "sang all day", "fell down")
             for who in ("cook", "guest")]
    prompts = [dict(instruction=f"Tell me of the {what}. Use exactly {n} words.") for n in ("four", "ten")
               for what in ("fox", "sea", "king")]
    result = attn_lit("run", "--model", "tiny", "--bias-data", rows(tmp_path/"b.jsonl", pairs), "--instruction-data",
                      rows(tmp_path/"i.jsonl", prompts), "--no-controls", "--permutations", "200", "--layer", "1",
                      "--skip", "sentiment", "--out", tmp_path/"out")
    assert result.returncode == 0, result.stderr
    found = results(tmp_path/"out")["analyses"]
    assert "not taken out: No answer to the instructions is known" in result.stdout
    why = results(tmp_path/"out")["causal"]
    assert "--columns answer=" in why["instruction"]["why_not"] and why["bias"]["n_items"] == 12
    assert found["bias"]["n_items"] == 12 and "6 clusters" in found["bias"]["test"] and not found["bias"]["controls"]
    assert found["instruction"]["n_items"] == 6 and "prose" in found["instruction"]["effect_name"]
    assert "bias_stereotype" not in found


def test_help_names_every_option():
    said = attn_lit("run", "--help").stdout
    for option in ("--model", "--quick", "--skip", "--out", "--device", "--dtype", "--quantize"): assert option in said
