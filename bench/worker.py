"A peer in a process of its own, with its own copy of the model, that measures on request."
import ctypes
import gc
import multiprocessing
import re
import resource
import sys
import time
from pathlib import Path

import torch
from ablation import TASKS
from peers import PEERS, load, random_texts


def proc(path, name):
    "What a file of /proc says about `name`, in bytes; 0 where there is none (on other systems than Linux)."
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), flags=re.M) if Path(path).exists() else None
    return 1024*int(found[1]) if found else 0


class Memory:
    """Peak memory of a run above the loaded model, in bytes.

    On a CPU it is VmHWM, which a 5 in clear_refs sets back before each run; ru_maxrss is never set back and would
    show the largest run so far. On other systems it serves all the same, as an upper limit.
    """
    def __init__(self, device):
        self.cuda = torch.cuda if device.type == "cuda" else None
        self.reset()
        self.base = self.peak()

    def reset(self):
        gc.collect()
        if self.cuda:
            self.cuda.empty_cache(); self.cuda.reset_peak_memory_stats()
            self.base = self.cuda.memory_allocated() # other peers' models are there too
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0) # gives back what earlier runs freed, which would count as in use
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self):
        if self.cuda: return self.cuda.max_memory_allocated()
        unit = 1 if sys.platform == "darwin" else 1024
        return proc("/proc/self/status", "VmHWM") or unit*resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def free(self):
        "What is left for a run; where the system does not say, there is no limit."
        return self.cuda.mem_get_info()[0] if self.cuda else proc("/proc/meminfo", "MemAvailable") or float("inf")


class Runner:
    "One peer with its model, ready for work."
    def __init__(self, task, peer, model, device, dtype, threads, seconds):
        if threads: torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.peer = dict(TASKS, heads=PEERS)[task][peer]
        self.seconds, self.fastest, device = seconds, {}, torch.device(device)
        tokenizer, loaded = load(model, device, dtype)
        self.config, self.parameters = loaded.config, loaded.num_parameters()
        self.run = self.peer.setup(tokenizer, loaded)
        del loaded # TransformerLens has a copy of its own
        self.run(random_texts([8, 9], self.config.vocab_size))
        self.memory = Memory(device)

    def about(self):
        "What only the process knows."
        gpu = torch.cuda.get_device_name() if self.memory.cuda else None
        return dict(parameters=self.parameters, threads=torch.get_num_threads(), gpu=gpu)

    def refusal(self, texts):
        "Why this work is not done, if so."
        need = self.peer.patterns(texts, self.config.num_hidden_layers, self.config.num_attention_heads)
        if need > .85*self.memory.free(): return f"its patterns need {need/1e9:.0f} GB"
        if not self.fastest or len(texts.encoded) > 1: return None
        tokens = max(self.fastest)
        expected = self.fastest[tokens]*(texts.longest/tokens)**2 # at most: not all of the work grows by the square
        # Long texts are what is done without S × S tensors for, so that is waited for.
        return f"a run might take {expected:.0f} s" if expected > self.seconds*(1 if need else 3) else None

    def timed(self, texts):
        "Seconds of one run, how many cores it had on average, and the statistics that it gave."
        if self.memory.cuda: torch.cuda.synchronize()
        start, used = time.perf_counter(), time.process_time()
        found = self.run(texts)
        if self.memory.cuda: torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return seconds, (time.process_time() - used)/seconds, found

    def turn(self, lengths, padded):
        "Seconds, peak bytes and statistics of one run, or why there is none."
        texts = random_texts(lengths, self.config.vocab_size, padded)
        if reason := self.refusal(texts): return dict(skipped=reason)
        self.memory.reset()
        try:
            # Off the clock, to warm up what others have used since; long runs on a CPU do not need it.
            if self.memory.cuda or sum(lengths) <= 200: self.timed(texts)
            seconds, cores, found = self.timed(texts)
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error): raise
            return dict(skipped="it ran out of memory")
        if len(lengths) == 1: # the time that it was held up, on less than one core, says nothing of the next length
            self.fastest[lengths[0]] = min(seconds*min(1, cores), self.fastest.get(lengths[0], float("inf")))
        above = max(0, self.memory.peak() - self.memory.base) # below it if memory of before was given back
        return dict(seconds=seconds, cores=cores, peak=above, found=found)


def serve(pipe, *args):
    "Answers one request after another until there is none."
    runner = Runner(*args)
    pipe.send(runner.about())
    try:
        while request := pipe.recv(): pipe.send(runner.turn(*request))
    except (EOFError, KeyboardInterrupt): pass # the whole run was stopped


class Worker:
    "The process, seen from outside."
    def __init__(self, *args):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, end = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(end, *args), daemon=True)
        self.process.start()
        end.close()

    def hear(self):
        try: return self.pipe.recv()
        except (EOFError, ConnectionError): return dict(skipped="its process ended")

    def ask(self, *request):
        try: self.pipe.send(request)
        except OSError: return dict(skipped="its process ended")
        return self.hear()

    def close(self):
        if self.process.is_alive(): self.pipe.send(None)
        self.process.join()


class Here:
    "The same in this process: for a GPU, whose memory is counted for itself and where nobody else is in the way."
    def __init__(self, *args):
        self.runner, self.said = None, {}
        try: self.runner = Runner(*args)
        except Exception as error: self.said = dict(skipped=f"{type(error).__name__}: {error}")

    def hear(self): return self.said if self.said else self.runner.about()

    def ask(self, *request):
        try: return self.runner.turn(*request)
        except Exception as error: return dict(skipped=f"{type(error).__name__}: {error}")

    def close(self): self.runner = None
