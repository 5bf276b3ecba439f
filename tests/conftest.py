"What all tests share: no network, the project's root on the path, and one whole run of the command."
import os
import shutil
import subprocess
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not shutil.which("nvidia-smi"): os.environ["TRITON_INTERPRET"] = "1" # the GPU's kernel is tried all the same

from browsing import browser, watched  # noqa: E402, F401 (fixtures)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    "`attn-lit run --model tiny` in a process of its own: what it said, and its folder. It takes most of a minute."
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-c", "from attn_lit.command import main; main()", "run", "--model", "tiny"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    command += ["--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300), folder


@pytest.fixture
def one_sentence(capsys):
    "Calls the command with bad input, and gives what it said if that was one line and exit code 2."
    from attn_lit.command import main
    def call(*args):
        with pytest.raises(SystemExit) as stop: main([str(a) for a in args])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in said and len(said.strip().splitlines()) == 1, said
        return said
    return call
