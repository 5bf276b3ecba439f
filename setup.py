"Packaging. Every fact comes from settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here/"settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
STATUSES = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}

setup(
    name=cfg["package_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    keywords=cfg["keywords"].split(),
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[f"Development Status :: {STATUSES[cfg['status']]}", "Natural Language :: English",
                 f"Intended Audience :: {cfg['audience']}"]
                + [f"Programming Language :: Python :: {v}" for v in PYTHONS],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    package_data={cfg["lib_name"]: ["*.json", "*.js", "*.css", "py.typed", "tiny/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require={x: cfg[f"{x}_requirements"].split() for x in ("lens", "quant", "fast", "dev")},
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
