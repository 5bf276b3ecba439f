"The names promised at the top level: each imports, is what it says, and costs nothing until it is used."
import inspect
import subprocess
import sys

import pytest

import attn_lit

PROMISED = """load_model get_attentions head_statistics head_entropy sentiment_head_scores bias_differential_attention
instruction_head_scores get_ffn_activations top_active_neurons logit_lens ablate_head full_ablation_matrix
plot_attention_heatmap plot_entropy_heatmap SENTIMENT_KEYWORDS InputError""".split()


def python(code): return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("name", PROMISED)
def test_promised_name(name):
    value = getattr(attn_lit, name)
    assert name in attn_lit.__all__ and name in dir(attn_lit)
    if name != "SENTIMENT_KEYWORDS": assert callable(value) and value.__doc__


@pytest.mark.parametrize("name", [name for name in PROMISED if name not in ("SENTIMENT_KEYWORDS", "InputError")])
def test_promised_name_is_annotated_in_full(name):
    "What mypy checks of it, as `make types` does for these modules."
    signature = inspect.signature(inspect.unwrap(getattr(attn_lit, name)))
    assert signature.return_annotation is not signature.empty
    assert not [p.name for p in signature.parameters.values() if p.annotation is p.empty]


def test_nothing_is_offered_that_was_not_promised(): assert sorted(attn_lit.__all__) == sorted(PROMISED)


def test_input_error_is_a_value_error(): assert issubclass(attn_lit.InputError, ValueError)


def test_sentiment_keywords_are_13_and_13():
    words = attn_lit.SENTIMENT_KEYWORDS
    assert {k: len(set(v)) for k, v in words.items()} == {"positive": 13, "negative": 13}


@pytest.mark.parametrize("module,name", [
    ("entropy", "head_entropy"), ("sentiment", "head_scores"),
    ("bias", "differential"), ("instruction", "head_scores"), ("stats", "sign_flip, label_permutation, fdr, bootstrap"),
    ("stats", "HeadResult, mean_score, pearson, with_sign_flip, with_label_permutation")])
def test_short_name_in_its_module(module, name):
    done = python(f"from attn_lit.{module} import {name}")
    assert done.returncode == 0, done.stderr


def test_a_name_is_the_object_of_its_module():
    from attn_lit import bias, bias_differential_attention
    assert bias_differential_attention is bias.differential


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"): _ = attn_lit.no_such_name


def test_star_import(): assert python("from attn_lit import *; load_model, head_entropy").returncode == 0


def test_import_is_light():
    done = python("import sys, attn_lit; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


HEAVY = "torch transformers datasets accelerate pandas scipy matplotlib numpy pyarrow yaml".split()
COMMAND = """import sys, time
start = time.perf_counter()
from attn_lit.command import main
try: main(sys.argv[1:])
except SystemExit as end: code = end.code or 0
print(f"exit {{code}}, {{time.perf_counter() - start:.2f}} s, loaded: {{[m for m in {heavy} if m in sys.modules]}}")"""


@pytest.mark.parametrize("arguments,code", [
    (["--help"], 0), (["run", "--help"], 0), (["plan", "--help"], 0), (["run", "--skip", "nonsense"], 2),
    (["run", "--no-such-option"], 2), (["run", "--alpha", "5"], 2), (["run", "--plan", "p.yaml", "--seed", "1"], 2)])
def test_the_command_answers_before_anything_heavy_is_loaded(arguments, code):
    done = subprocess.run([sys.executable, "-c", COMMAND.format(heavy=HEAVY), *arguments], capture_output=True,
                          text=True)
    said = done.stdout.splitlines()[-1]
    print(said)
    assert said.startswith(f"exit {code}, ") and said.endswith("loaded: []"), done.stdout + done.stderr
    assert float(said.split()[2]) < 5, "about 0.2 s where nothing else runs"


def test_no_nbdev_at_run_time():
    done = python("import sys, attn_lit.command, attn_lit.pipeline\n"
                  "print({'nbdev', 'fastcore', 'execnb'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
