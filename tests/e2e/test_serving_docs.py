"""If these fail, what docs/serving.md tells people to type does not work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from mbrec.embeddings import export_embeddings
from mbrec.ranking import top_k
from mbrec.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
FORBIDDEN = ("torch", "dgl", "mbrec")


def test_the_reader_of_embeddings_needs_neither_torch_nor_dgl(
    tiny_run: Run, tmp_path: Path
) -> None:
    (reader,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "embeddings.json" in block
    ]
    reader = reader.replace("user_id = 1234", "user_id = 'u7'")
    export_embeddings(tiny_run.path, tmp_path / "vectors")
    script = (
        f"import sys\nfor name in {FORBIDDEN}: sys.modules[name] = None\n"
        f"{reader}\nprint(json.dumps(best))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = top_k(tiny_run.scorer("purchase"), torch.tensor([7]), 10).items[0] + 1000
    assert json.loads(done.stdout) == expected.tolist()
