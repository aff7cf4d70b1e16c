import ast
from pathlib import Path

import geneval_reward.rl as rl


def test_public_names_exist():
    assert sorted(rl.__all__) == rl.__all__
    assert all(hasattr(rl, name) for name in rl.__all__)


def test_imports_only_torch_numpy_the_errors_and_itself():
    allowed = {"torch", "numpy"}
    for path in Path(rl.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                root = name.split(".")[0]
                assert (
                    root in allowed
                    or name.startswith(("geneval_reward.rl", "geneval_reward.errors"))
                    or root in _stdlib()
                ), (path.name, name)


def _stdlib():
    import sys

    return sys.stdlib_module_names
