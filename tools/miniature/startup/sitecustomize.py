"""On PYTHONPATH of a run: DiffusionKit's loaders get the table of sizes of the miniature when they are imported.

Nothing else of DiffusionKit is changed. torch is not available, because no job needs it.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder

LOADERS = "diffusionkit.mlx.model_io"


class Patch:
    """What `sizes.shrink` asks of a monkeypatch, for the life of the process."""

    def setitem(self, table, key, value):
        table[key] = value

    def setattr(self, owner, name, value):
        setattr(owner, name, value)


class Finder(MetaPathFinder):
    """Finds the loaders as ever, and shrinks the sizes when they have been loaded."""

    def find_spec(self, name, path, target=None):
        if name != LOADERS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_shrink(module):
            load(module)
            from tools.miniature import sizes

            sizes.shrink(Patch())

        spec.loader.exec_module = load_and_shrink
        return spec


sys.modules["torch"] = None
sys.meta_path.insert(0, Finder())
