"Numbers that do not drift: a run on `tiny` gives what it gave, and the same bits in another process."
import json

import golden
import numpy as np
import pytest

from attn_lit import instruction, sentiment
from attn_lit.models import load_model
from attn_lit.stats import json_ready


@pytest.fixture(scope="module")
def record(whole_run):
    result, folder = whole_run
    assert result.returncode == 0, result.stderr
    return json.loads((folder/"analysis_results.json").read_text())


def test_numbers_are_what_they_were(record):
    then = json.loads(golden.GOLDEN.read_text())
    moved = list(golden.drifted(golden.numbers(record), then))
    assert not moved, f"{len(moved)} numbers moved; if that was meant, see golden.py:\n" + "\n".join(moved[:20])


def test_a_drift_is_noticed(record):
    now = golden.numbers(record)
    assert list(golden.drifted(now, now)) == []
    effect = now["analyses"]["sentiment"]["effect"]
    before, effect[1][2] = effect[1][2], effect[1][2] + 2e-5
    then = json.loads(json.dumps(now))
    effect[1][2] = before
    assert [m.split(":")[0] for m in golden.drifted(now, then)] == ["/analyses/sentiment/effect[1][2]"]
    effect[1][2] += 1.5e-5
    assert not list(golden.drifted(now, then)) # half as far
    del then["causal"]["bias"]
    assert len(list(golden.drifted(now, then))) == 1


def test_another_process_gives_the_same_bits(record):
    "The run was a process of its own, with hashes of its own; what is random is drawn by the seed alone."
    tokenizer, model = load_model("tiny")
    i = dict(sentiment=sentiment.head_scores(sentiment.SENTIMENT_TEXTS, sentiment.SENTIMENT_LABELS, tokenizer, model),
             instruction=instruction.head_scores(tokenizer, model))
    for name, found in i.items():
        here, there = json.loads(json.dumps(json_ready(found))), record["analyses"][name]
        assert here["maps"] == there["maps"], name
        for control, c in there["controls"].items(): assert here["controls"][control]["maps"] == c["maps"], control
        assert np.isfinite(found.p).all() and here["controls"]
