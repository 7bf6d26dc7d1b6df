"""What no source may do: run what a file says, unpickle, or hand a line to a shell."""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoints import read_tensors
from training.errors import CheckpointError, ConfigError, TrainingError
from training.files import file_sha256
from training.pool_scores import PoolScores
from training.pretrained import read_state
from training.regions import RegionMap

pytestmark = pytest.mark.guarantee(19)
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("label_config", "training", "ml_backend", "requirements")
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Modules whose import is allowed for one thing that runs nothing.
ALLOWED_USES = {("training/pretrained.py", "pickle"): {"UnpicklingError"}}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}
XML = {"xml.sax", "xml.dom", "lxml"}


def sources() -> list[Path]:
    found = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 150
    return found


def findings(name: str, text: str) -> list[str]:
    """Everything forbidden in one source, as 'name:line what'."""
    tree = ast.parse(text)
    known = _imports(tree)
    found = [f"{name}:{line} {what}" for line, what in _unpicklers(name, tree, known)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [f"{name}:{node.lineno} {what}" for what in _call(node, known)]
    return found


def _imports(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, so that `import numpy as n` hides nothing."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                known[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return known


def _unpicklers(name: str, tree: ast.AST, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    allowed = {m: uses for (file, m), uses in ALLOWED_USES.items() if file == name}
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            base = module.split(".")[0]
            if (base in UNPICKLERS and base not in allowed) or module.startswith(tuple(XML)):
                yield node.lineno, f"import of {module}"
        if isinstance(node, ast.Attribute):
            path = _dotted(node, known)
            base = path.split(".")[0]
            if base in allowed and path.split(".")[1:2] != [*allowed[base]][:1]:
                yield node.lineno, path


def _call(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    """What a call does that it must not."""
    path = _dotted(node.func, known)
    last = path.split(".")[-1]
    options = {k.arg: k.value for k in node.keywords if k.arg is not None}
    if path in FORBIDDEN_CALLS or path in SHELLS or path in YAML or last == "read_pickle":
        yield path
    if path.startswith(("torch.", "timm.")) and last == "load" and path != "torch.hub.load":
        if not _is(options.get("weights_only"), True):
            yield f"{path} without weights_only=True"
    if path in ("torch.jit.load", "torch.hub.load"):
        yield path
    if path.startswith("numpy.") and last in ("load", "fromfile") and last == "load":
        if not _is(options.get("allow_pickle"), False):
            yield f"{path} without allow_pickle=False"
    if "shell" in options and not _is(options["shell"], False):
        yield f"{path} with a shell"
    if "autoescape" in options and _is(options["autoescape"], False):
        yield f"{path} without autoescape"
    if last in ("Markup",) and any(isinstance(a, ast.JoinedStr | ast.BinOp) for a in node.args):
        yield f"{path} of a text put together here"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def test_no_source_unpickles_evaluates_or_asks_a_shell() -> None:
    """Seen failing with allow_pickle=False taken out of training/regions.py, and with weights_only
    taken out of training/pretrained.py."""
    found = []
    for path in sources():
        found += findings(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "import joblib",
        "import dill as json",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x', weights_only=False)",
        "from torch import load\nload('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "from numpy import load as read\nread('x', allow_pickle=flag)",
        "import yaml\nyaml.load('x', Loader=yaml.Loader)",
        "import pandas as pd\npd.read_pickle('x')",
        "eval('1')",
        "exec(text)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen(line, shell=maybe)",
        "import os\nos.system('ls')",
        "from os import system\nsystem('ls')",
        "from xml.dom import minidom",
        "import lxml.etree",
        "import jinja2\njinja2.Environment(autoescape=False)",
        "from markupsafe import Markup\nMarkup(f'<b>{name}</b>')",
    ],
)
def test_the_search_finds(source: str) -> None:
    """Each of these would be found, so that the test above can fail."""
    assert findings("x.py", source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import json\njson.load(file)",
        "model.eval()",
        "re.compile('x')",
        "import subprocess\nsubprocess.run(['ls'])",
        "import yaml\nyaml.safe_load('x')",
    ],
)
def test_the_search_leaves_alone(source: str) -> None:
    assert findings("x.py", source) == []


def test_templates_escape_everything() -> None:
    """Seen failing with `| safe` in a template."""
    templates = sorted((ROOT / "ml_backend").rglob("*.html"))
    assert len(templates) >= 6
    for path in templates:
        text = path.read_text("utf-8")
        assert "safe" not in text.replace("safe-area", ""), path
        assert "autoescape" not in text, path


class Bomb:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def test_a_malicious_pt_file_does_nothing(tmp_path: Path, mark: Path) -> None:
    """Seen failing with weights_only=False in training/pretrained.py."""
    path = tmp_path / "encoder.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "b": Bomb(mark)}, path)
    with pytest.raises(ConfigError, match="cannot be read as encoder weights"):
        read_state(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the file is harmless, so the test shows nothing"


def test_a_malicious_region_map_does_nothing(tmp_path: Path, mark: Path) -> None:
    """Seen failing with allow_pickle=True in training/regions.py."""
    buffer = io.BytesIO()
    RegionMap(np.zeros((4, 4), np.int32), 1, "grid", {}).save(tmp_path / "good.npz")
    names = np.load(tmp_path / "good.npz", allow_pickle=False).files
    np.savez(buffer, **{name: np.array([Bomb(mark)], dtype=object) for name in names})  # type: ignore[arg-type]
    (tmp_path / "evil.npz").write_bytes(buffer.getvalue())
    with pytest.raises(TrainingError):
        RegionMap.load(tmp_path / "evil.npz")
    assert not mark.exists()
    with np.load(tmp_path / "evil.npz", allow_pickle=True) as file:
        [file[name] for name in names]
    assert mark.exists(), "the file is harmless, so the test shows nothing"


def test_malicious_scores_do_nothing(tmp_path: Path, mark: Path) -> None:
    """Seen failing with allow_pickle=True in training/pool_scores.py."""
    text = (ROOT / "training" / "pool_scores.py").read_text("utf-8")
    names = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)}
    names = {n for n in names if isinstance(n, str) and n.isidentifier()}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array([Bomb(mark)], dtype=object) for name in sorted(names)})  # type: ignore[arg-type]
    (tmp_path / "evil.npz").write_bytes(buffer.getvalue())
    with pytest.raises(TrainingError):
        PoolScores.load(tmp_path / "evil.npz")
    assert not mark.exists()


def test_a_malicious_file_under_the_name_of_weights_does_nothing(
    tmp_path: Path, mark: Path
) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(Bomb(mark), path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensors(path, file_sha256(path))
    assert not mark.exists()
