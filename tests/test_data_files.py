"Data of one's own: real files where they are at hand, faults of any kind, no network and no cache."
import csv
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attn_lit.base import InputError
from attn_lit.bias import Pair
from attn_lit.data import ENDINGS, read_items, read_table
from attn_lit.formats import bias_items, instruction_items, sentiment_items
from attn_lit.lexicons import lexicon, lexicon_items

ROOT = Path(__file__).resolve().parent.parent
PLACES = [Path(os.environ["ATTN_LIT_DATA"])] if "ATTN_LIT_DATA" in os.environ else [
    folder/"shared/data" for folder in (ROOT, *ROOT.parents)]


def real(name):
    "A real file or folder in `shared/data` beside the clone (or in $ATTN_LIT_DATA); skips the test without it."
    found = next((place/name for place in PLACES if (place/name).exists()), None)
    return found or pytest.skip(f"no {name} in a folder shared/data beside the clone, nor in $ATTN_LIT_DATA")


# ── real files

def test_sst2():
    whole = sentiment_items(real("sentiment/sst2"))
    assert Counter(row["split"] for row in whole.rows) == {"train": 6920, "dev": 872, "test": 1821}
    assert whole.format == "SST-2" and not whole.dropped and len(whole.sha256) == 3
    dev = sentiment_items(real("sentiment/sst2"), split="validation").rows
    assert dev == sentiment_items(real("sentiment/sst2/dev.tsv")).rows and Counter(r["label"] for r in dev)[1] == 444


def differing_words(a, b):
    "The words, pairwise and without brackets, that two lines differ in; None if they have other numbers of words."
    a, b = ([word.strip("[].") for word in line.replace("[ ", "[").split()[1:]] for line in (a, b))
    return {(x, y) for x, y in zip(a, b) if x != y} if len(a) == len(b) else None


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("kind", ["type1", "type2"])
def test_winobias_by_a_count_of_words(kind, split):
    pro, anti = (real(f"bias/winobias/{side}_stereotyped_{kind}.txt.{split}") for side in ("pro", "anti"))
    lines = [differing_words(*both) for both in zip(*(p.read_text().splitlines() for p in (pro, anti)))]
    admitted = [{("he", "she")}, {("she", "he")}, {("his", "her")}, {("her", "his")}]
    found = bias_items(pro)
    assert len(found.rows) == sum(line in admitted for line in lines)
    assert len(found.rows) + sum(found.dropped.values()) == len(lines) == 396
    assert Counter(r["stereotype"] for r in found.rows) == Counter(
        "male" if line in admitted[::2] else "female" for line in lines if line in admitted)
    for row in found.rows:
        assert Pair(row["male"], row["female"]).form == row["form"] and not set("[]") & set(row["male"] + row["female"])
        assert row["template"].count("/") == 1 and (row["kind"], row["split"]) == (kind, split)


def test_winobias_knows_the_lists_of_occupations():
    folder = real("bias/winobias")
    known = {x.strip().lower() for name in ("male", "female")
             for x in (folder/f"{name}_occupations.txt").read_text().splitlines()}
    whole = bias_items(folder)
    assert {who for row in whole.rows for who in row["template"].split("/")} <= known
    assert Counter((r["kind"], r["split"]) for r in whole.rows) == {
        ("type1", "dev"): 380, ("type1", "test"): 369, ("type2", "dev"): 34, ("type2", "test"): 57}


@pytest.mark.parametrize("name,form,rows,bare", [
    ("ifeval_input_data.jsonl", "IFEval", 541, 0), ("ifeval_single_instr_format.jsonl", "IFEval pairs", 161, 161),
    ("instruction-data.json", "Alpaca", 1100, 0), ("seed_tasks.jsonl", "self-instruct", 175, 0)])
def test_instructions(name, form, rows, bare):
    found = instruction_items(real(f"instructions/{name}"))
    assert (found.format, len(found.rows), sum(r["bare"] is not None for r in found.rows)) == (form, rows, bare)
    assert all(r["instruction"].strip() and r["plain"] is None for r in found.rows)


def test_hu_liu():
    words = lexicon(real("sentiment/opinion_lexicon"))
    assert {name: len(w) for name, w in words.items()} == {"positive": 2003, "negative": 4780}
    assert "naïve" in words["negative"] and "envious" not in words["positive"] + words["negative"]


def test_vader():
    found = lexicon_items(real("sentiment/vader/vader_lexicon.txt"))
    assert len(found.rows) + sum(found.dropped.values()) == 7520 and found.dropped["no word"] == 290
    assert {"good", "superb"} <= {r["word"] for r in found.rows if r["list"] == "positive"}


# ── no network, no cache

def test_local_files_need_no_network_and_leave_no_cache(tmp_path):
    (home := tmp_path/"home").mkdir()
    (tmp_path/"a.jsonl").write_text('{"text": "A.", "label": 1}\n')
    (tmp_path/"a.csv").write_text("text,label\nA.,1\n")
    (tmp_path/"a.txt").write_text("A.\n")
    script = ("import socket, sys, tempfile\n"
              "def refuse(*args): sys.exit('the network was asked')\n"
              "socket.socket.connect = socket.getaddrinfo = refuse\n"
              "from attn_lit.data import read_items\n"
              "import datasets\n"
              f"datasets.Dataset.from_dict(dict(text=['A.'], label=[1])).to_parquet({str(tmp_path/'a.parquet')!r})\n"
              "for name in ('a.jsonl', 'a.csv', 'a.txt', 'a.parquet'):\n"
              f"    assert len(read_items({str(tmp_path)!r} + '/' + name).rows) == 1\n")
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    env = {k: v for k, v in os.environ.items() if k not in offline} | {
        "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [p for p in home.rglob("*") if p.is_file()]


def test_a_missing_data_set_is_one_sentence():
    for loader in (sentiment_items, bias_items, instruction_items):
        with pytest.raises(InputError, match="Cannot read 'no-team/no-data'") as raised: loader("no-team/no-data")
        assert len(str(raised.value).splitlines()) == 1


# ── anything

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(texts, texts)))
@example([("Dull, but kind.", 'so "fine"'), ("two\nlines", "\r")])
def test_a_table_comes_back_as_it_was_written(rows):
    csv.writer(written := io.StringIO(newline="")).writerows([("text", "more"), *rows])
    assert read_table(written.getvalue(), ",") == [dict(text=a or None, more=b or None) for a, b in rows]


@given(st.one_of(st.binary(max_size=60), texts.map(str.encode)), st.sampled_from(ENDINGS))
@example(b"\xef\xbb\xbftext\tlabel\nA.\t1\n", ".tsv")
@example(b'{"text": "A.", "label": ', ".jsonl")
@example(b'[1, {"text": 2}]', ".json")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_rows_or_one_sentence(tmp_path, data, ending):
    (path := tmp_path/f"rows{ending}").write_bytes(data)
    for loader in (read_items, sentiment_items, bias_items, instruction_items, lexicon): rows_or_sentence(loader, path)


def rows_or_sentence(loader, path):
    "Runs a loader; the only error that it may raise is an `InputError` of one line."
    try: assert loader(path) is not None
    except InputError as error: assert 10 < len(str(error)) < 2000 and "\n" not in str(error)
