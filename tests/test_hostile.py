"Input that nobody meant well with: no traceback, nothing lost, nothing outside --out, no network, no foreign code."
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attn_lit.base import InputError
from attn_lit.command import main
from attn_lit.kept import earlier_figures
from attn_lit.models import encode, load_model, random_model
from attn_lit.plan import load_inputs, make_plan, plan_text
from attn_lit.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
QUICK = "--quick --no-controls --no-causal --permutations 100 --skip sentiment bias instruction neurons".split()

WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        os.write(2, f"NETWORK {event} {args}\\n".encode()); os._exit(99)
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(log, (os.path.realpath(args[0]) + "\\n").encode())
log = os.open(os.environ["WRITTEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(watch)
"""


def watched(code, tmp_path, *argv):
    "Runs Python code that may not use the network, with an empty home and no HF_HUB_OFFLINE; gives what it wrote."
    for name in ("home", "work", "scratch"): (tmp_path/name).mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "XDG_", "MPL"))} | {
        "HOME": str(tmp_path/"home"), "TMPDIR": str(tmp_path/"scratch"), "WRITTEN": str(tmp_path/"written"),
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": matplotlib.get_cachedir()}
    done = subprocess.run([sys.executable, "-c", WATCH + code, *map(str, argv)], capture_output=True, text=True,
                          env=env, cwd=tmp_path/"work", timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(line) for line in (tmp_path/"written").read_text().splitlines()}


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer, _ = load_model("tiny")
    random_model("llama", vocab=len(tokenizer), n_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ── the network, and where files go

def test_a_run_asks_no_network_keeps_to_its_folder_and_follows_no_link(tmp_path, whole_folder):
    "Every module is imported first. Compiled code is kept beside the library, as Python keeps its own."
    out, mine = tmp_path/"work/out", tmp_path/"mine.txt"
    (tmp_path/"work").mkdir()
    out.mkdir()
    mine.write_text("mine")
    for name in ("analysis_results.json", "heads.csv", "plan.yaml"): (out/name).symlink_to(mine)
    for name in ("heads.parquet", "entropy_heatmap.png", "report.html"): (out/name).symlink_to(tmp_path/"gone")
    (out/"notes.txt").write_text("not the tool's")
    modules = sorted(p.stem for p in (ROOT/"attn_lit").glob("*.py") if p.stem[0] != "_")
    written = watched(f"from importlib import import_module\nfor m in {modules}: import_module('attn_lit.' + m)\n"
                      "from attn_lit.command import main; main(sys.argv[1:])", tmp_path, "run", "--model",
                      whole_folder, *QUICK, "--out", out)
    assert mine.read_text() == "mine" and not (tmp_path/"gone").exists()
    assert (out/"notes.txt").read_text() == "not the tool's" and not [p for p in out.rglob("*") if p.is_symlink()]
    assert json.loads((out/"analysis_results.json").read_text())["status"] == "complete"
    outside = [p for p in written if not p.is_relative_to(out) and p.parts[1] not in ("dev", "proc", "sys")
               and ROOT/"attn_lit/__pycache__" not in (p, p.parent) and not p.is_relative_to(tmp_path/"scratch")]
    assert not [p for p in outside if not p.is_relative_to(matplotlib.get_cachedir())], outside
    assert not [p for name in ("home", "scratch") for p in (tmp_path/name).rglob("*") if p.is_file()]
    assert [p.name for p in (tmp_path/"work").iterdir()] == ["out"]
    record = json.loads((out/"analysis_results.json").read_text())
    assert sorted(p.name for p in earlier_figures(out)) == sorted(record["figures"]) # what the next run takes away
    for name in ("notes.txt", "../../mine.png", str(mine)):
        changed(out/"analysis_results.json", figures=[*record["figures"], name])
        assert not {p.name for p in earlier_figures(out)} - {*record["figures"]}


def test_nothing_says_where_it_is_used():
    for path in (ROOT/"attn_lit").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("requests.", "urllib.request", "http.client", "telemetry")), path


# ── model folders

@pytest.fixture
def folder(whole_folder, tmp_path): return Path(shutil.copytree(whole_folder, tmp_path/"model"))


def changed(path, **kwargs): path.write_text(json.dumps(json.loads(path.read_text()) | kwargs))


EVIL = {"config": ("config.json", dict(model_type="strange", auto_map={
            "AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.A"})),
        "model": ("config.json", dict(auto_map={"AutoModelForCausalLM": "evil.A"})),
        "tokenizer": ("tokenizer_config.json", dict(tokenizer_class="A", auto_map={"AutoTokenizer": ["evil.A"]*2})),
        "kernel": ("config.json", dict(_attn_implementation="team/evil")),
        "elsewhere": ("config.json", dict(auto_map={"AutoConfig": "team/repo--evil.A"}))}


@pytest.mark.parametrize("case", EVIL)
def test_code_in_a_model_folder_is_not_run(case, folder, monkeypatch):
    file, change = EVIL[case]
    changed(folder/file, **change)
    for name in ("evil.py", "custom_generate/generate.py", "setup.py", "__init__.py"):
        (folder/name).parent.mkdir(exist_ok=True)
        (folder/name).write_text(f"open({str(folder/'ran')!r}, 'w')\nclass A: pass\n")
    monkeypatch.chdir(folder)
    try: load_model(str(folder))
    except InputError: pass
    assert not (folder/"ran").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_not_opened(name, folder):
    (folder/"model.safetensors").unlink()
    (folder/name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.") # a pickle that runs a command
    with pytest.raises(InputError, match=f"but {name}: pickled weights are not read.*convert"): load_model(str(folder))
    assert not (folder/"ran").exists() and not Path("ran").exists()


def test_a_weight_that_is_missing_is_not_made_up(folder):
    changed(folder/"config.json", num_hidden_layers=2)
    with pytest.raises(InputError, match="is described with .* parameters in its config.json"): load_model(str(folder))
    changed(folder/"config.json", num_hidden_layers=10**9)
    began = time.monotonic()
    with pytest.raises(InputError, match="at most 1,000 layers"): load_model(str(folder))
    assert time.monotonic() - began < 5


def test_a_token_without_an_embedding_is_named(folder):
    tokens = json.loads((folder/"tokenizer.json").read_text())
    tokens["added_tokens"].append(dict(id=10**6, content="<img>", single_word=False, lstrip=False, rstrip=False,
                                       normalized=False, special=False))
    (folder/"tokenizer.json").write_text(json.dumps(tokens))
    changed(folder/"tokenizer_config.json", pad_token="<img>")
    tokenizer, model = load_model(str(folder))
    assert tokenizer.pad_token_id < model.config.vocab_size
    encode("A fox.", tokenizer, model)
    with pytest.raises(InputError, match="has 4,096 embeddings"): encode("A fox <img> here.", tokenizer, model)


# ── texts

tokenizer, model = load_model("tiny")


@given(st.text(st.characters(), min_size=1, max_size=60))
@example("\0")
@example("\ud83d")
@example("🦊")
@example("שלום עולם")
@example("\u202eabc\u2066")
@example("\ufeffa")
@settings(deadline=None)
def test_any_text_has_tokens_in_place_or_is_refused(text):
    try: found = encode(text, tokenizer, model)
    except InputError as error:
        assert not text.strip() or any("\ud800" <= c <= "\udfff" for c in text), error
        return
    spans = [span for span in found.offsets if span[1] > span[0]]
    assert len(found) and spans[0][0] == 0 and max(b for _, b in spans) == len(text)


@pytest.mark.parametrize("text", ["word "*200_000, "a"*1_000_000, "🦊"*250_000, "\0"*1_000_000])
def test_a_megabyte_in_one_line_takes_seconds(text, tmp_path):
    (tmp_path/"a.jsonl").write_text(json.dumps(dict(text=text, label=1)) + "\n")
    began = time.monotonic()
    assert list(load_inputs(Settings(sentiment_data=str(tmp_path/"a.jsonl"))).texts) == [text]
    with pytest.raises(InputError, match="context is 512"): encode(text, tokenizer, model)
    assert time.monotonic() - began < 10


# ── the command line

def fifo(path): os.mkfifo(path); return path


def linked(path): path.symlink_to(path.parent/"gone"/"further"); return path


def put(path, data): path.write_bytes(data if isinstance(data, bytes) else data.encode()); return path


def trusting(path):
    settings = Settings(model="tiny")
    return put(path, plan_text(make_plan(settings, load_inputs(settings))).replace("code: false", "code: true"))


SAID = { # what a stranger types; what the sentence must name, and what it must say to do
    "a variable that is not set": (lambda t: ["--sentiment-data", ""], ["--sentiment-data is empty", "leave it out"]),
    "no folder to write to": (lambda t: ["--out", ""], ["--out is empty"]),
    "a plan without a name": (lambda t: ["--plan", ""], ["--plan is empty"]),
    "a folder in place of a file": (lambda t: ["--out", put(t/"f", "x")], ["Cannot write to --out", "another folder"]),
    "a link to nowhere": (lambda t: ["--out", linked(t/"l")], ["Cannot write to --out"]),
    "a device file": (lambda t: ["--out", "/dev/null"], ["Cannot write to --out"]),
    "a pipe": (lambda t: ["--sentiment-data", fifo(t/"p.csv")], ["p.csv", "no ordinary file"]),
    "a plan that never ends": (lambda t: ["--plan", "/dev/zero"], ["no such file"]),
    "a plan that trusts": (lambda t: ["--plan", trusting(t/"p.yaml")], ["--trust-remote-code"]),
    "a plan that is a table": (lambda t: ["--plan", put(t/"p.yaml", "a,b\n1,2\n")], ["no plan", "attn-lit plan"]),
    "a bomb": (lambda t: ["--plan", put(t/"p.yaml", "a: &a [x]\nb: [*a, *a]\n")], ["alias"]),
    "a name that is too long": (lambda t: ["--sentiment-data", "/" + "a"*5000], ["file name too long"]),
    "nobody's home": (lambda t: ["--lexicon", "~nobody-here/words.txt"], ["Cannot read"]),
    "bytes that are no text": (lambda t: ["--text", "caf\udce9"], ["surrogate"]),
    "a seed below zero": (lambda t: ["--seed=-1"], ["--seed -1", "0 to"]),
    "too much to draw": (lambda t: ["--permutations", "1000000000000"], ["too many", "at most"]),
    "alpha that is no number": (lambda t: ["--alpha", "nan"], ["--alpha nan", "between 0 and 1"]),
    "a device in letters": (lambda t: ["--device", "cpu:²"], ["cpu:²", "this machine has"]),
    "a spreadsheet": (lambda t: ["--sentiment-data", put(t/"a.xlsx", b"PK")], [".csv"]),
    "UTF-16": (lambda t: ["--sentiment-data", put(t/"a.csv", "text,label\nA,1\n".encode("utf-16"))], ["UTF-8"]),
    "semicolons": (lambda t: ["--sentiment-data", put(t/"a.csv", "text;label\nA;1\n")], ["separated by ';'", "','"]),
    "a quotation mark": (lambda t: ["--sentiment-data", put(t/"a.csv", 'text,label\nA,1\n"B,0\n')], ["line 3"]),
    "a comma too many": (lambda t: ["--sentiment-data", put(t/"a.csv", "text,label\nA, B,1\n")], ["line 2", "quotes"]),
    "half a line of JSON": (lambda t: ["--sentiment-data", put(t/"a.jsonl", '{"text": "A", "label": 1}\n{"te')],
                            ["line 2", "Unterminated"]),
    "null": (lambda t: ["--sentiment-data", put(t/"a.jsonl", "null\n")], ["line 1", "expected an object"]),
    "a list of texts": (lambda t: ["--sentiment-data", put(t/"a.json", '["A", "B"]')], ["element 1", "such as"]),
    "a label in words": (lambda t: ["--sentiment-data", put(t/"a.csv", "text,label\nA,great\n")], ["row 1", "'great'"]),
    "codes for the terminal": (lambda t: ["--sentiment-data", put(t/"a.csv", "text,label\nA,\x1b[2J\n")], ["\\x1b"]),
    "a broken Parquet": (lambda t: ["--sentiment-data", put(t/"a.parquet", b"PAR1PAR1")], ["a.parquet"]),
    "a model that is a file": (lambda t: ["--model", put(t/"m.bin", b"x")], ["m.bin"]),
}


@pytest.mark.parametrize("case", SAID)
def test_what_a_stranger_is_told(case, tmp_path, capsys):
    make, says = SAID[case]
    more = [str(a) for a in make(tmp_path)]
    if "--plan" not in more: more += ["--model", "tiny"]*("--model" not in more)
    if "--out" not in more: more += ["--out", str(tmp_path/"out")]
    with pytest.raises(SystemExit) as stop: main(["run", *more])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1 and len(said) < 600, said
    assert said.strip().isprintable() and all(part in said for part in says), said


# ── a short slice of the fuzzer

def test_a_slice_of_the_fuzzer():
    done = subprocess.run([sys.executable, str(ROOT/"tests/fuzz.py"), "--together", "--n", "5", "--only",
                           "sentiment", "bias", "instruction", "lexicon", "plan", "model"],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    assert "inputs" in done.stdout
