"""Runs that are stopped, starved, damaged and contradicted: nothing is lost, and the last bit is that of a whole run.

Each run is a process of its own, forked from one that has imported what a run needs. It reads texts in windows of 16,
so that a hundred make many shards, draws no pictures, writes no report, and has tested its model once: that takes most
of the time of a small run.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attn_lit.models import TINY

FORKER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from attn_lit import command, pipeline, stream
stream.WINDOW = 16
pipeline.STAGES = {name: pipeline.STAGES[name] for name in ("sentiment", "ablation")}
pipeline.Run.draw = pipeline.write_report = lambda *args: None
tested, self_test = [], pipeline.self_test
def tested_once(*of):
    if not tested: tested.append(self_test(*of))
    return tested[0]
pipeline.self_test = tested_once
try: command.main(json.loads(sys.stdin.readline())) # one whole run, so that what is made at first use is made
except SystemExit as stop: assert not stop.code
print("ready", flush=True)
fsync = os.fsync
def full(after):
    def no_room(file, left=iter(range(after))):
        if next(left, None) is None: raise OSError(28, "No space left on device")
        fsync(file)
    return no_room
for line in sys.stdin:
    job = json.loads(line)
    if not (pid := os.fork()):
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1); os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1) # makes anew what a fork breaks, before the loader's threads find it broken
        os.environ.update(job["env"])
        if job["full"] is not None: os.fsync = full(job["full"])
        code = 0
        try: command.main(job["args"])
        except SystemExit as stop: code = stop.code or 0
        except BaseException:
            import traceback; traceback.print_exc(); code = 1
        print("exit", code, flush=True)
        os._exit(code)
    print(pid, flush=True)
"""
KEPT = ("analysis_results.json", "heads.csv", "heads.parquet", "sentiment_words.csv", "plan.yaml")


class Job:
    "A run under way."

    def __init__(self, pid, log): self.pid, self.log = pid, log

    def kill(self, with_what=signal.SIGKILL): os.kill(self.pid, with_what)

    @property
    def runs(self):
        "Whether it has not ended, with all its threads; the forker leaves ended ones to be looked at."
        process = Path(f"/proc/{self.pid}")
        try:
            state = (process/"stat").read_text().rpartition(")")[2].split()[0]
            return state not in "ZX" or len(list((process/"task").iterdir())) > 1 # what is left of it holds the lock
        except OSError: return False

    def wait(self, patience=60):
        end = time.monotonic() + patience
        while self.runs:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(.005)
        return self.log.read_text()


class Forker:
    "Starts runs over one small corpus."

    def __init__(self, folder):
        self.folder, self.n = folder, 0
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen([sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)
        rng = random.Random(0)
        words = "good bad happy sad fox tree river king , . the a was is in on".split()
        rows = [dict(text=f"The {' '.join(rng.choices(words, k=rng.randint(4, 16)))} good.", label=i % 2)
                for i in range(120)]
        (folder/"texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.process.stdin.write(json.dumps(self.args(folder/"whole", "tiny")) + "\n")
        self.process.stdin.flush()
        assert "ready\n" in iter(self.process.stdout.readline, ""), "the forker could not run"

    def args(self, out, model, *more):
        args = ["run", "--model", model, "--out", out, "--sentiment-data", self.folder/"texts.jsonl", "--quick",
                "--permutations", 100, "--skip", "bias", "instruction", "neurons", "--no-causal", *more]
        return list(map(str, args))

    def start(self, out, *more, model="tiny", full=None, **env):
        self.n += 1
        job = dict(args=self.args(out, model, *more), env=env, full=full, log=str(self.folder/f"{self.n}.log"))
        Path(job["log"]).touch()
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return Job(int(self.process.stdout.readline()), Path(job["log"]))

    def whole(self, out, *more, **env):
        said = self.start(out, *more, **env).wait()
        assert "analysis_results.json are in" in said, said
        return results(out)


@pytest.fixture(scope="module")
def forker(tmp_path_factory):
    forker = Forker(tmp_path_factory.mktemp("faults"))
    yield forker
    forker.process.kill()


@pytest.fixture(scope="module")
def expected(forker):
    "What a run leaves behind that nothing disturbs."
    return results(forker.folder/"whole")


def results(out):
    "The final files, without the times."
    found = {name: (out/name).read_bytes() for name in KEPT}
    record = json.loads(found.pop("analysis_results.json"))
    assert record["status"] == "complete" and record.pop("seconds") and record["provenance"].pop("started")
    assert record["self_test"].pop("seconds")
    record["provenance"]["arguments"].pop("out")
    return found | dict(record=record)


def shards(out): return sorted((out/"measured").glob("[!.]*-*.parquet"))


def until(job, out, n):
    "Waits for the first `n` shards."
    while len(shards(out)) < n: assert job.runs, job.log.read_text(); time.sleep(.002)


def one_sentence(said, *has):
    found = [line for line in said.splitlines() if line.startswith("attn-lit: ")]
    assert len(found) == 1 and all(word in found[0] for word in has), said


def test_killed_at_20_random_moments(forker, expected, tmp_path):
    "Each time it goes on; whenever it comes to its end, the results are those of a whole run, and it begins anew."
    rng, out, killed, ended, began = random.Random(0), tmp_path/"out", 0, 0, time.monotonic()
    forker.whole(tmp_path/"timed")
    lasts = time.monotonic() - began
    while killed < 20:
        job, moment = forker.start(out), time.monotonic() + rng.uniform(0, .6*lasts)
        while job.runs and time.monotonic() < moment: time.sleep(.002)
        if job.runs: job.kill(); job.wait(); killed += 1
        else:
            assert job.log.read_text().endswith("exit 0\n"), job.log.read_text()
            assert results(out) == expected
            shutil.rmtree(out); ended += 1
    assert forker.whole(out) == expected
    assert not list(out.rglob(".attn_lit_*"))
    print(f"killed {killed} times, came to its end {ended + 1} times")


def test_interrupt(forker, expected, tmp_path):
    job = forker.start(tmp_path)
    until(job, tmp_path, 5)
    job.kill(signal.SIGINT)
    one_sentence(said := job.wait(), "interrupted", "the same command goes on")
    assert said.endswith("exit 130\n")
    assert json.loads((tmp_path/"analysis_results.json").read_text())["status"] == "failed"
    had = {p: p.stat().st_mtime_ns for p in shards(tmp_path)}
    assert len(had) >= 5 and forker.whole(tmp_path) == expected
    assert had.items() <= {p: p.stat().st_mtime_ns for p in shards(tmp_path)}.items() # not measured again


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 400 kB; None where nobody may mount one."
    (at := tmp_path/"disk").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", at], capture_output=True)
    yield at if done.returncode == 0 else None
    if done.returncode == 0: subprocess.run(["umount", "-l", at], check=True)


def test_full_disk(forker, expected, small_disk):
    "One sentence, no traceback, nothing half-written; with room made, it goes on."
    if small_disk is None: pytest.skip("no file system can be mounted here; the next test raises the error by itself")
    out, ballast = small_disk/"out", small_disk/"ballast"
    ballast.write_bytes(bytes(330_000))
    said = forker.start(out).wait()
    one_sentence(said, "No space left on device")
    assert "Traceback" not in said and not list(out.rglob(".attn_lit_*"))
    subprocess.run(["mount", "-o", "remount,size=40M", small_disk], check=True)
    ballast.unlink()
    assert forker.whole(out) == expected


def test_no_room_for_a_shard(forker, expected, tmp_path):
    said = forker.start(tmp_path, full=6).wait()
    assert said.endswith("exit 2\n")
    one_sentence(said, "No space left on device; what was measured before is kept: make room")
    assert len(shards(tmp_path)) == 6 and not list((tmp_path/"measured").glob(".attn_lit_*"))
    assert forker.whole(tmp_path) == expected


@pytest.mark.parametrize("harm", [lambda b: b[:len(b)//2], lambda b: b"",
                                  lambda b: b[:99] + bytes([b[99] ^ 4]) + b[100:]],
                         ids=["truncated", "empty", "one bit"])
def test_a_damaged_shard_is_measured_again(forker, expected, tmp_path, harm):
    shutil.copytree(forker.folder/"whole/measured", tmp_path/"out/measured")
    shard = random.Random(1).choice(shards(tmp_path/"out"))
    whole = shard.read_bytes()
    shard.write_bytes(harm(whole))
    job = forker.start(tmp_path/"out")
    one_sentence(job.wait(), shard.name, "is damaged, so its texts are measured again")
    assert results(tmp_path/"out") == expected and shard.read_bytes() == whole


def test_another_model_is_refused(forker, expected, tmp_path):
    "The folder has the same name, and one weight is another."
    from attn_lit.models import load_model
    shutil.copytree(TINY, tmp_path/"model")
    forker.whole(tmp_path/"out", model=tmp_path/"model")
    before = results(tmp_path/"out")
    _, model = load_model(str(tmp_path/"model"))
    model.lm_head.weight.data[0, 0] += 1e-3
    model.save_pretrained(tmp_path/"model")
    one_sentence(forker.start(tmp_path/"out", model=tmp_path/"model").wait(), "holds another run", "model.weights")
    assert results(tmp_path/"out") == before


@pytest.mark.parametrize("more,says", [(["--seed", 1], "plan.settings.seed (0 there, 1 here)"),
                                       (["--alpha", .1], "plan.settings.alpha (0.05 there, 0.1 here)"),
                                       (["--no-controls"], "plan.settings.controls (true there, false here)")])
def test_another_argument_is_refused(forker, expected, more, says):
    one_sentence(forker.start(forker.folder/"whole", *more).wait(), "holds another run", says)
    assert results(forker.folder/"whole") == expected


def test_two_runs_in_one_folder(forker, expected, tmp_path):
    first = forker.start(tmp_path)
    until(first, tmp_path, 1)
    one_sentence(forker.start(tmp_path).wait(), "Another run is writing to")
    assert first.runs
    first.wait()
    assert results(tmp_path) == expected


def test_two_processes(forker, expected, tmp_path):
    "Both measure, the first writes; the same to the last bit."
    jobs = [forker.start(tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    said = [job.wait() for job in jobs]
    assert results(tmp_path) == expected and said[1] == "exit 0\n"
    assert [p.name for p in shards(tmp_path)] == [p.name for p in shards(forker.folder/"whole")]


@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies(forker, expected, tmp_path, dies):
    "The other one does not wait for it; if it was the first, the run goes on when it is called again."
    jobs = [forker.start(tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    until(jobs[1 - dies], tmp_path, 4)
    jobs[dies].kill()
    jobs[1 - dies].wait()
    if dies == 0: forker.whole(tmp_path)
    assert results(tmp_path) == expected


LAUNCHED = """
import os, sys
from attn_lit import stream
from attn_lit.command import main
print("process", os.environ["RANK"], flush=True)
stream.WINDOW = 8
main(sys.argv[1:])
"""


def test_under_accelerate(tmp_path, monkeypatch):
    "`accelerate launch` with two processes, beside the same run in this one."
    from attn_lit import stream
    from attn_lit.pipeline import run_pipeline
    from attn_lit.settings import Settings
    (tmp_path/"launched.py").write_text(LAUNCHED)
    args = ["run", "--model", "tiny", "--out", tmp_path/"two", "--quick", "--layer", "0", "--permutations", "100",
            "--skip", "bias", "instruction", "neurons", "--no-causal", "--no-controls"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", tmp_path/"launched.py"]
    done = subprocess.run(list(map(str, [sys.executable, *launch, *args])), capture_output=True, text=True, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "process 0" in done.stdout and "process 1" in done.stdout and done.stdout.count("are in") == 1
    monkeypatch.setattr(stream, "WINDOW", 8)
    run_pipeline(Settings(model="tiny", out=str(tmp_path/"one"), quick=True, layer=0, permutations=100, causal=False,
                          skip=("bias", "instruction", "neurons"), controls=False), say=lambda line: None)
    one, two = (pd.read_parquet(tmp_path/name/"heads.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, atol=1e-6, rtol=0) # here with other numbers of threads


def test_a_corpus_on_disk_gives_the_same(tmp_path, monkeypatch):
    "Rows read in pieces, texts and scores on disk, blocks of one head: the numbers of a run that holds all in memory."
    from attn_lit import bias, corpus, disk, instruction, pipeline, stream
    from attn_lit.settings import Settings
    tested = ("sentiment", "bias", "instruction")
    monkeypatch.setattr(pipeline, "STAGES", {name: pipeline.STAGES[name] for name in tested})
    rng, words = random.Random(0), "good bad happy sad fox tree river king , . the a was is in on".split()
    def some(): return " ".join(rng.choices(words, k=rng.randint(2, 9)))
    who, prompts = ["nurse", "pilot", "cook"], ["describe the house", "write exactly three words", "list the birds"]
    tables = dict(sentiment=[dict(text=f"The {some()}", label=i % 2) for i in range(150)], bias=[], instruction=[])
    for i in range(130):
        male = f"The {who[i % 3]} {some()} he {some()}."
        tables["bias"].append(dict(male=male, female=male.replace(" he ", " she " if i % 9 else " they "), kind="own",
                                   template=f"{who[i % 3]} {i % 40}", stereotype=("male", "female")[i % 2]))
        order = f"{prompts[i % 3]} {some()}"
        tables["instruction"].append(dict(prompt=f"Now {order}", plain=f"We {order if i % 7 else some()}"))
    for name, rows in tables.items():
        (tmp_path/f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    def settings(**more): return Settings(
        model="tiny", split=.5, permutations=100, causal=False, **more,
        **{f"{name}_data": str(tmp_path/f"{name}.jsonl") for name in tested})
    def run(out): return pipeline.run_pipeline(settings(out=str(tmp_path/out)), say=lambda line: None)
    def limited(): return pipeline.load_inputs(settings(limit=100))
    held, few = run("held"), limited()
    for name, value in dict(LARGE=1000, PIECE=2000, GROUP=64).items(): monkeypatch.setattr(corpus, name, value)
    for module in (bias, instruction): monkeypatch.setattr(module, "GROUP", 7)
    for name, value in dict(HELD=9, HEADS=1).items(): monkeypatch.setattr(disk, name, value)
    monkeypatch.setattr(stream, "WINDOW", 32)
    laid = run("laid")
    assert all(isinstance(some, corpus.View) for some in (laid.inputs.texts, laid.inputs.pairs, laid.inputs.plain))
    assert held.record["data"] == laid.record["data"] and limited().texts == few.texts
    for name in held.maps:
        a, b = held.maps[name], laid.maps[name]
        assert isinstance(b.scores, disk.OnDisk), name
        assert a.dropped == b.dropped and a.words == b.words and list(a.controls) == list(b.controls)
        for one, other in ((a, b), *((control, b.controls[name]) for name, control in a.controls.items())):
            for field in ("effect", "low", "high", "p", "q", "p_max_t", "n_used", "n_dropped"):
                both = getattr(one, field), getattr(other, field)
                if both[0] is not None: np.testing.assert_allclose(*both, atol=1e-6, err_msg=f"{name} {field}")
        if a.held_out: pd.testing.assert_frame_equal(a.held_out.table, b.held_out.table, atol=1e-6)
