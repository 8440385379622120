"""Installation of mbrec.

``cli`` and ``data_prep`` are folders at the top level of this repository, and both names are used
by other distributions on the package index. They are therefore installed *inside* the package, as
``mbrec.cli`` and ``mbrec.data_prep``: nothing collides in a user's environment, and an import such
as ``from mbrec.data_prep.pipeline import prepare`` is found at ``data_prep/pipeline.py``. The
folder ``bench`` has the benches that come with mbrec; it is installed as ``mbrec.presets``.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "mbrec" / "version.py").read_text(encoding="utf-8").split('"')[-2]

setup(
    name="mbrec",
    version=VERSION,
    description="Multi-behavior recommendation: ranked lists for every user and every behavior",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    package_dir={
        "mbrec": "mbrec",
        "mbrec.cli": "cli",
        "mbrec.data_prep": "data_prep",
        "mbrec.presets": "bench",
    },
    packages=[
        *find_packages(include=["mbrec", "mbrec.*"]),
        *(f"mbrec.{name}" for name in find_packages(include=["cli", "cli.*"])),
        *(f"mbrec.{name}" for name in find_packages(include=["data_prep", "data_prep.*"])),
        "mbrec.presets",
    ],
    package_data={
        "mbrec": ["py.typed", "report/page/*", "tune/spaces/*.toml"],
        "mbrec.presets": ["*.toml"],
    },
    install_requires=[
        "torch>=2.2",
        "dgl>=2.1,<3",
        "numpy>=1.26",
        "pandas>=2.2",
        "scipy>=1.11",
        "pyarrow>=16",
        "duckdb>=1.5",
        "ibis-framework[duckdb]>=10",
        "click>=8.1",
        "pydantic>=2.7,<3",
        "safetensors>=0.4.3",
        "packaging>=23",
        "tqdm>=4.66",
        "tomli>=2; python_version < '3.11'",
        "tomli-w>=1",
    ],
    extras_require={
        "ann": ["faiss-cpu>=1.8"],
        "report": ["jinja2>=3.1", "matplotlib>=3.8"],
        "serve": ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20"],
        # mbrec prep --engine spark; needs Java 17, too.
        "spark": ["ibis-framework[pyspark]>=10", "pyspark>=4.0,<4.1"],
        "dev": [
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3",
            "hypothesis>=6.100",
            "pytrec_eval-terrier>=0.5.6",  # trec_eval, which the metrics are compared with
            "ruff>=0.6",
            "mypy>=1.11",
            "pandas-stubs",
            "pyyaml>=6",
            "tensorboard>=2.17",
            "mlflow-skinny>=2.14",
            # The pages, and the tests that run what stands on them.
            "latex2mathml>=3.77",
            "markdown-it-py>=3",
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.7,<10",
            # What the tests of the extras need.
            "faiss-cpu>=1.8",
            "jinja2>=3.1",
            "matplotlib>=3.8",
            "selenium>=4.20",  # looks at a report in Chromium, where there is one
            "fastapi>=0.115",
            "httpx2>=2",
            "optuna>=4",
            "prometheus-client>=0.20",
            "schemathesis>=4",
            "uvicorn>=0.30",
            "wandb>=0.19",
        ],
        "tensorboard": ["tensorboard>=2.17"],  # mbrec train --track tensorboard
        "tune": ["optuna>=4"],  # mbrec tune
        "wandb": ["wandb>=0.19"],  # mbrec train --track wandb
        "mlflow": ["mlflow-skinny>=2.14"],  # mbrec train --track mlflow; the client alone
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "latex2mathml>=3.77"],
        "fuzz": ["atheris>=2.3"],  # only tests/fuzz/coverage_guided.py asks for it
    },
    entry_points={"console_scripts": ["mbrec=mbrec.cli.main:main"]},
    zip_safe=False,
)
