"What all tests share: no network, and the project's root on the path."
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from browsing import browser, watched  # noqa: E402, F401 (fixtures)
