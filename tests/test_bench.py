"The benchmark: a tiny run of it finishes, its numbers agree, and its table can be read. No time is looked at."
import json
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent/"bench"
PEERS = ("plain", "attn_lit", "eager")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench")/"results.json"
    command = [sys.executable, BENCH/"bench.py", "--models", "tiny-llama", "--lengths", "16", "--rounds", "1",
               "--threads", "1", "--peers", *PEERS, "--json", path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import table
    return table


def test_fields(results):
    assert {"date", "machine", "versions", "threads", "device", "dtype", "models", "corpus", "statistics", "peers",
            "absent", "rows"} == set(results)
    assert results["models"]["tiny-llama"] > 0 and results["threads"] == 1 and results["versions"]["torch"]
    assert [(r["work"], r["peer"]) for r in results["rows"]] == [
        (work, peer) for work in ("16", "64 texts", "64 padded") for peer in PEERS]


def test_every_peer_did_the_work(results):
    for r in results["rows"]:
        assert r["skipped"] is None and r["seconds"] > 0 and r["ratio"] > 0 and r["peak_mb"] >= 0
        assert len(r["times"]) == len(r["cores"]) == 1


def test_numbers_agree(results):
    "Of peers that measure the statistics, to rounding; the plain forward has none."
    assert results["statistics"] == ["entropy", "max", "distance", "sink", "previous", "induction", "marked:m"]
    for r in results["rows"]:
        if r["peer"] == "eager": assert r["differs"] < 1e-5
        else: assert r["differs"] is None


def test_no_host_or_path(results):
    "Results can be published."
    said = json.dumps(results)
    assert str(BENCH.parent) not in said and str(Path.home()) + "/" not in said
    assert platform.node() not in [*map(str, results["machine"].values())]


def test_table(results, table):
    frame = table.table(results)
    assert list(frame.columns) == ["16", "64 texts", "64 padded", "agrees to"]
    assert frame.xs("time, plain forward = 1", level="measure").loc[("tiny-llama", "plain forward"), "16"] == "1.00"
    shown = table.markdown(results).splitlines()
    assert len({line.count("|") for line in shown}) == 1 and any("transformers eager" in line for line in shown)


def test_table_says_what_is_left_out(results, table):
    rows = [dict(r, seconds=None, ratio=None, peak_mb=None, differs=None, times=[], skipped="its patterns need 9 GB")
            if r["peer"] == "eager" and r["work"] == "16" else r for r in results["rows"]]
    changed = dict(results, rows=rows, absent={"nnsight": "nnsight is not installed"})
    assert table.table(changed).xs("transformers eager", level="peer")["16"].eq("–").all()
    said = "\n".join(table.notes(changed))
    assert "transformers eager, 16: its patterns need 9 GB" in said and "nnsight is not installed" in said


def test_ablation(tmp_path):
    "The benchmark of the ablation matrix runs."
    path = tmp_path/"ablation.json"
    command = [sys.executable, BENCH/"ablation.py", "--models", "tiny-gpt2", "--metrics", "last", "--lengths", "16",
               "--peers", "plain", "attn_lit", "--rounds", "1", "--threads", "1", "--json", path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [(r["work"], r["peer"]) for r in rows] == [("a logit difference at the last of 16 tokens", "plain"),
                                                      ("a logit difference at the last of 16 tokens", "attn_lit")]
    assert all(r["skipped"] is None and r["seconds"] > 0 for r in rows)


@pytest.mark.parametrize("kind", ["loss", "last"])
def test_ways_to_the_matrix_agree(kind, monkeypatch):
    "Every way to the matrix gives the same changes; the floor multiplies and gives none."
    monkeypatch.syspath_prepend(BENCH)
    import ablation
    import peers
    tokenizer, model = peers.load("tiny-gpt2", torch.device("cpu"), "float32")
    texts = peers.random_texts([16], model.config.vocab_size)
    tasks = ablation.TASKS[kind].copy()
    if not find_spec("transformer_lens"): tasks.pop("lens")
    changes = {name: peer.setup(tokenizer, model)(texts).get("change") for name, peer in tasks.items()}
    assert {name for name, change in changes.items() if change is not None} == {"attn_lit", "hooks", "lens"} & {*tasks}
    assert changes["attn_lit"].shape == (1, 2, 4) and np.abs(changes["attn_lit"]).min() > 0
    for name in {"hooks", "lens"} & {*tasks}: np.testing.assert_allclose(changes[name], changes["attn_lit"], atol=1e-5)
