"Loading real folders: ten families from safetensors, a real trained model, and code that must not run."
import json
from pathlib import Path

import pytest
import torch

from attn_lit.attention import get_attentions
from attn_lit.base import InputError
from attn_lit.models import FAMILIES, Parts, load_model, provenance, random_model

STORIES = Path(__file__).parents[2]/"shared/data/models/stories260K"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="the shared model stories260K is not beside this clone")


@pytest.fixture
def folder(tmp_path):
    "Writes a random model of a family, with the bundled tokenizer, as a local folder."
    tokenizer, _ = load_model("tiny")
    def write(family, **kwargs):
        random_model(family, vocab=len(tokenizer), **kwargs).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path
    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loads_from_a_folder(family, folder):
    path = folder(family)
    tokenizer, model = load_model(str(path))
    assert model.config.model_type == family and not model.training and tokenizer.pad_token is not None
    tokens, attn = get_attentions("The king slept.", tokenizer, model)
    assert attn.shape == (2, 4, len(tokens), len(tokens))
    assert len(Parts(model).out_projs) == len(Parts(model).down_projs) == 2
    assert len(provenance(tokenizer, model)["weights_sha256"]) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_number_formats(dtype, folder):
    tokenizer, model = load_model(str(folder("llama")), dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert get_attentions("The king slept.", tokenizer, model)[1].dtype == torch.float32


@needs_stories
def test_a_real_llama_reads_as_its_source_says():
    tokenizer, model = load_model(str(STORIES))
    start = torch.tensor([[tokenizer.bos_token_id]])
    ids = model.generate(start, max_new_tokens=80, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    told = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert told.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")


@needs_stories
def test_grouped_query_heads_are_all_there():
    tokenizer, model = load_model(str(STORIES))
    tokens, attn = get_attentions("Once upon a time, there was a little girl.", tokenizer, model)
    assert attn.shape[:2] == (5, 8) and model.config.num_key_value_heads == 4
    assert tokens[0] == tokenizer.bos_token and tokens.count(tokenizer.bos_token) == 1


def test_a_repositorys_own_code_does_not_run(folder):
    path, trace = folder("gpt2"), Path(folder("gpt2"))/"ran"
    config = json.loads((path/"config.json").read_text())
    config.update(model_type="strange", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (path/"config.json").write_text(json.dumps(config))
    (path/"evil.py").write_text(f"open({str(trace)!r}, 'w').write('ran')\n")
    with pytest.raises(InputError, match="trust_remote_code"): load_model(str(path))
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder_is_one_sentence(damage, folder):
    path = folder("gpt2")
    (path/damage).write_bytes(b"\x00not what it says")
    with pytest.raises(InputError) as error: load_model(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_folder_without_a_tokenizer(family, folder):
    path = folder(family)
    for file in path.glob("tokenizer*"): file.unlink()
    with pytest.raises(InputError): load_model(str(path))
