"""A fuzzer: valid files, spoilt by a seeded hand, given to everything that reads.

    python tests/fuzz.py --n 2000            # inputs a target
    python tests/fuzz.py --only plan --seed 7 --start 310 --n 1 # one of them again

Each input is known by target, seed and number, so that one line is all it takes to meet it again. Inputs are read in a
process of its own, which is watched: one that dies, hangs or grows is a finding, as is any error but an `InputError` of
one line, a row that is neither kept nor counted, and a file outside the folder that the input lies in.
"""
import argparse
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOW, LARGE = 10, 4 << 30 # seconds of a core an input may take; bytes that the process may grow to
WORDS = """null NaN -1 1e999 2020-01-01 " ' , [ { ] } : [] {} "" true 0 1000000000 &a *a !!python/object:os.system
../../x /etc/passwd 🦊 é \\ud800 she he $OCCUPATION split text label %s%n ${HOME} <<:""".split() + [
    "\\", "\t", "\n", "\r\n", "\0", "\ufeff", "\u202e", "\u2028", "\x85", "\x1b[2J", "- ", "!!binary |", "<<: *a",
    "[the nurse]", "9"*400, "a"*5000, "["*500, '{"a":'*300]
ENCODINGS = ["utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32"]


def lines(*rows): return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(*rows, by=","): return "".join(by.join(map(str, row)) + "\n" for row in rows).encode()


REVIEWS = [dict(text="A good fox.", label=1, split="train"), dict(text="Bad 犬, very.", label=0, split="dev"),
           dict(text="naïve", label=None), dict(text="", label=1)]
PAIRS = [dict(male="He left.", female="She left.", template="left", stereotype="male"), dict(male="a", female="b"),
         dict(male="The cook lost his hat.", female="The cook lost her hat.", kind="own")]
TASKS = [dict(instruction="Name a tree.", input="<noinput>", output="Oak."), dict(instruction="Use exactly two words."),
         dict(instruction="Mend it.", instances=[dict(input="He go.", output="He goes.")])]
STEREO = dict(version="1", data=dict(intrasentence=[dict(
    context="The nurse said BLANK was late.", target="nurse", bias_type="gender",
    sentences=[dict(sentence=f"The nurse said {who} was late.", gold_label=label)
               for who, label in (("he", "anti-stereotype"), ("she", "stereotype"), ("tea", "unrelated"))])]))
WINO = "1 [The baker] thanked the pilot because [{}] was glad.\n2 The baker told [the pilot] that [{}] had won.\n"


def parquet(rows):
    import pyarrow
    import pyarrow.parquet
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue()


def seeds():
    "Target → name of the file → its bytes; the file that is spoilt comes first."
    found = {}
    for name, rows in dict(sentiment=REVIEWS, bias=PAIRS, instruction=TASKS).items():
        names = list(dict.fromkeys(k for row in rows for k in row))
        found[f"{name} jsonl"] = {"rows.jsonl": lines(*rows)}
        found[f"{name} json"] = {"rows.json": json.dumps(rows, indent=1).encode()}
        plain = [[row.get(k) if isinstance(row.get(k), str) else "" for k in names] for row in rows]
        found[f"{name} csv"] = {"rows.csv": table(names, *[[f'"{v}"' for v in row] for row in plain])}
        found[f"{name} tsv"] = {"rows.tsv": table(names, *plain, by="\t")}
        found[f"{name} parquet"] = {"rows.parquet": parquet([{k: str(row.get(k)) for k in names} for row in rows])}
    found["sentiment parquet nested"] = {"rows.parquet": parquet([dict(text=["A.", None], label=dict(a=1))])}
    found["sentiment tsv headerless"] = {"rows.tsv": table(["a fine film", 1], ["dull", 0], by="\t")}
    found["instruction txt"] = {"rows.txt": b"Name a tree.\n\nUse two words.\r\n"}
    found["bias stereoset"] = {"rows.json": json.dumps(STEREO).encode()}
    found["bias crows"] = {"rows.csv": table(["sent_more", "sent_less", "stereo_antistereo", "bias_type"],
                                             ["She cried.", "He cried.", "stereo", "gender"])}
    found["bias winogender"] = {"rows.tsv": table(["sentid", "sentence"], *[
        [f"baker.guest.1.{g}.txt", f"The baker said {w} won."] for g, w in (("male", "he"), ("female", "she"))],
                                                 by="\t")}
    found["bias winobias"] = {f"{side}_stereotyped_type1.txt.dev": WINO.format(*words).encode()
                              for side, words in (("pro", ("he", "she")), ("anti", ("she", "he")))}
    found["lexicon txt"] = {"words.txt": b"; a comment\nglad\nvery glad\n"}
    found["lexicon vader"] = {"words.txt": b"glad\t2.0\t0.6\t[2, 2]\ngrim\t-1.5\t0.5\t[-1, -2]\n"}
    found["lexicon json"] = {"words.json": b'{"calm": ["still"], "loud": ["noisy"]}'}
    found["lexicon csv"] = {"words.csv": b"word,label\nglad,pos\ngrim,-1\n"}
    return found


def plan_seed(folder):
    "A plan on data in the folder, so that one that is read to its end is read from files."
    from attn_lit.plan import load_inputs, make_plan, plan_text
    from attn_lit.settings import Settings
    (folder/"rows.jsonl").write_bytes(lines(*REVIEWS))
    settings = Settings(model="tiny", sentiment_data=str(folder/"rows.jsonl"))
    return {"plan.yaml": plan_text(make_plan(settings, load_inputs(settings))).encode()}


def model_seed(folder):
    "A small random model and the bundled tokenizer, cut to some tokens."
    from attn_lit.models import load_model, random_model
    tokenizer, _ = load_model("tiny")
    random_model("llama", vocab=len(tokenizer), n_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {name: (folder/name).read_bytes() for name in ("config.json", "tokenizer.json", "tokenizer_config.json",
                                                          "generation_config.json", "model.safetensors")}


def results_seed(folder):
    "What a short run leaves."
    from attn_lit.pipeline import run_pipeline
    from attn_lit.settings import Settings
    run_pipeline(Settings(model="tiny", quick=True, out=str(folder), controls=False, causal=False, permutations=100,
                          skip=("bias", "instruction", "neurons")), say=lambda line: None)
    return {name: (folder/name).read_bytes() for name in ("analysis_results.json", "figures.npz")}


# ── spoiling

def swap(rng, data):
    i = rng.randrange(len(data))
    return data[:i] + bytes([rng.randrange(256)]) + data[i + 1:]


def cut(rng, data): return data[:rng.randrange(len(data))]


def lose(rng, data):
    i = rng.randrange(len(data))
    return data[:i] + data[i + rng.choice([1, 1, 2, 8, 40]):]


def repeat(rng, data):
    i, n = rng.randrange(len(data)), rng.choice([1, 5, 30, 200])
    return data[:i] + data[i:i + n]*rng.choice([2, 3, 50]) + data[i:]


def insert(rng, data):
    i = rng.randrange(len(data) + 1)
    return data[:i] + rng.choice(WORDS).encode("utf-8", "replace") + data[i:]


def instead(rng, data):
    "Another word in place of one that is there."
    words = [w for w in data[:100_000].replace(b'"', b" ").replace(b",", b" ").split() if len(w) < 40]
    if not words: return insert(rng, data)
    return data.replace(rng.choice(words), rng.choice(WORDS).encode("utf-8", "replace"), rng.choice([1, -1]))


def recode(rng, data): return data.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")


def of_another_type(rng, data):
    "A value somewhere in the JSON, if it is JSON, of another type."
    try: whole = json.loads(data)
    except ValueError: return insert(rng, data)
    places = []
    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list) and len(places) < 3000: walk(value[key])
    if isinstance(whole, dict | list): walk(whole)
    if not places: return insert(rng, data)
    inside, key = rng.choice(places)
    inside[key] = rng.choice([None, True, -1, 0, 1.5, 10**12, "x", "", [], {}, [[1]], {"a": 0}, "../x", float("nan")])
    return json.dumps(whole).encode()


WAYS = [swap, swap, cut, lose, repeat, insert, insert, instead, instead, recode, of_another_type, of_another_type]


def spoilt(rng, data):
    for _ in range(rng.choice([1, 1, 2, 4])):
        if data: data = rng.choice(WAYS)(rng, data)
    return data[:4_000_000]


# ── reading

def readers():
    from attn_lit.formats import bias_items, instruction_items, sentiment_items
    from attn_lit.lexicons import lexicon_items
    return dict(sentiment=sentiment_items, bias=bias_items, instruction=instruction_items, lexicon=lexicon_items)


def counted(read, path):
    "Rows that a reader kept and dropped are all that there were, where that can be told from the file."
    from attn_lit.data import read_items
    items = read(path)
    if read.__name__ in ("sentiment_items", "instruction_items"):
        n = len(read_items(path).rows)
        assert len(items.rows) + sum(items.dropped.values()) == n, f"{n} rows, kept {len(items.rows)}: {items.dropped}"


def read_model(path):
    from attn_lit.attention import get_attentions
    from attn_lit.models import load_model
    tokenizer, model = load_model(str(path.parent), device="cpu")
    get_attentions("The king slept.", tokenizer, model)


def read_plan(path):
    from attn_lit.plan import read_plan
    read_plan(str(path))


ARGUMENTS = """run plan --help --model tiny --out --skip bias bias,neurons --layer -1 --head --text --alpha nan inf
1e-320 --split --limit --permutations --seed --columns text= =a a=b=c --use-split --lexicon --sentiment-data / . ~nobody
/dev/zero /dev/full --pairs --plan --device cuda:-1 --dtype -- - --no-controls --quick --trust-remote-code 🦊 --revision
../.. --quantize --nonsense""".split() + ["", " ", "a\0b", "\udcff", "9"*30, "a"*5000]


def read_arguments(path, rng):
    "Arguments drawn at random, for `plan`, or for a run of a model that is not there."
    from attn_lit.command import main
    argv = [rng.choice(ARGUMENTS) for _ in range(rng.randrange(6))]
    argv = ["plan", *argv] if rng.random() < .7 else ["run", "--model", str(path.parent/"nowhere"), *argv]
    if "run" in argv: argv += ["--model", str(path.parent/"nowhere"), "--out", str(path.parent/"out")]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said): main(argv)
    except SystemExit as stop:
        assert stop.code in (0, 2, None), f"exit {stop.code}: {argv}"
        assert "Traceback" not in said.getvalue(), argv


def one(target, name, path, rng):
    "Reads one spoilt file; raises what is a finding."
    from attn_lit.base import InputError
    try:
        if target == "arguments": read_arguments(path, rng)
        elif target == "plan": read_plan(path)
        elif target == "results": read_results(path)
        elif target.startswith("model"): read_model(path)
        else: counted(readers()[target.split()[0]], path)
    except InputError as error:
        says = str(error)
        assert 10 < len(says) < 1500 and says.isprintable() and "\n" not in says, f"not one short line: {says[:300]}"


def read_results(path):
    from attn_lit.kept import read_kept
    read_kept(path)


def targets(): return [*seeds(), "plan", "results", "model config", "model tokenizer", "model tokenizer_config",
                       "model generation_config", "model model", "arguments"]


def work(target, seed, start, n, mark):
    "Reads inputs start … start + n − 1 of a target, each announced in the file `mark` before and after."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        (inside := folder/"inside").mkdir()
        os.chdir(inside)
        make = dict(plan=plan_seed, results=results_seed, model=model_seed).get(target.split()[0])
        files = make(inside) if make else seeds().get(target, {"x": b""})
        name = next((f for f in files if f.startswith(target.partition(" ")[2] + ".")), next(iter(files)))
        whole = dict(files)
        for i in range(start, start + n):
            rng = random.Random(f"{target}/{seed}/{i}")
            Path(mark).write_text(f"{i} running")
            for other, data in whole.items(): (inside/other).write_bytes(data)
            (inside/name).write_bytes(spoilt(rng, whole[name]))
            began = time.process_time()
            try: one(target, name, inside/name, rng)
            except BaseException: print(f"input {i} of {target!r}, seed {seed}", file=sys.stderr); raise
            assert time.process_time() - began < SLOW, f"took {time.process_time() - began:.0f} s"
            assert [p.name for p in folder.iterdir()] == ["inside"], "wrote outside"
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 < LARGE, "grew too large"
        Path(mark).write_text(f"{start + n} done")


def watched(target, seed=0, n=100, start=0, most=5):
    "Number of inputs read, and what was found: (number of the input, what it did)."
    found, end = [], start + n
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder)/"mark"
        while start < end and len(found) < most:
            mark.write_text(f"{start} running")
            command = [sys.executable, __file__, "--work", target, str(seed), str(start), str(end - start), str(mark)]
            try: done = subprocess.run(command, capture_output=True, text=True, timeout=120 + (end - start)*SLOW/2)
            except subprocess.TimeoutExpired: done = None
            at, state = mark.read_text().split()
            if state == "done": start = end; break
            why = "hangs" if done is None else ([f"ends with {done.returncode}", *done.stderr.strip().splitlines()])[-1]
            if done is not None and done.returncode < 0: why = f"is ended by signal {-done.returncode}"
            found.append((int(at), why[:400]))
            start = int(at) + 1
    return start - (end - n), found


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--n", type=int, default=300, help="inputs of each target")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--start", type=int, default=0)
    options.add_argument("--only", nargs="*", default=[""], help="targets whose name holds one of these")
    options.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options.add_argument("--together", action="store_true", help="all in one process, which the first finding ends")
    asked = options.parse_args()
    chosen = [t for t in targets() if any(part in t for part in asked.only)]
    if asked.together:
        for target in chosen:
            print(target, flush=True)
            work(target, asked.seed, asked.start, asked.n, os.devnull)
        return print(f"{asked.n*len(chosen):,} inputs")
    if asked.work: return work(asked.work[0], *map(int, asked.work[1:4]), asked.work[4])
    total, faults = 0, 0
    for target in chosen:
        began = time.monotonic()
        n, found = watched(target, asked.seed, asked.n, asked.start)
        total, faults = total + n, faults + len(found)
        print(f"{target:24} {n:6,} inputs, {len(found)} findings, {time.monotonic() - began:.0f} s", flush=True)
        for i, why in found: print(f"    --only '{target}' --seed {asked.seed} --start {i} --n 1: {why}", flush=True)
    print(f"{total:,} inputs, {faults} findings")
    sys.exit(faults > 0)


if __name__ == "__main__": main()
