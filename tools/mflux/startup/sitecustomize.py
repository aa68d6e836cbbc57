"""On PYTHONPATH of mflux's environment: its transformer has the miniature's sizes.

mflux writes the sizes of FLUX.1 as numbers into its code. They are replaced when a module is imported; nothing else of
the code is changed.
"""

import ast
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader

PACKAGE = "mflux.models.flux.model.flux_transformer"
WIDTH = {3072: 64}
HEADS = {128: 32, 24: 2}  # channels of a head, and their number
# The sizes in each module, and those of the miniature.
SIZES = {
    "ada_layer_norm_zero": WIDTH | {18432: 384},
    "ada_layer_norm_zero_single": WIDTH,
    "embed_nd": WIDTH | {16: 8, 56: 12},
    "feed_forward": WIDTH | {12288: 256},
    "joint_attention": WIDTH | HEADS,
    "joint_transformer_block": WIDTH,
    "single_block_attention": WIDTH | HEADS,
    "single_transformer_block": WIDTH,
    "text_embedder": WIDTH | {768: 24},
    "timestep_embedder": WIDTH,
    "transformer": WIDTH,
}


class Shrink(ast.NodeTransformer):
    """Replaces the sizes of a module, each of which has to occur."""

    def __init__(self, sizes):
        self.sizes, self.found = sizes, set()

    def visit_Constant(self, node):
        if type(node.value) is not int or node.value not in self.sizes:
            return node
        self.found.add(node.value)
        return ast.copy_location(ast.Constant(self.sizes[node.value]), node)


class SmallLoader(SourceFileLoader):
    """Compiles a module with small sizes; nothing is cached."""

    def get_code(self, fullname):
        shrink = Shrink(SIZES[fullname.rpartition(".")[2]])
        tree = shrink.visit(ast.parse(self.get_data(self.path)))
        if shrink.found != shrink.sizes.keys():
            raise ImportError(f"{fullname} has no size {shrink.sizes.keys() - shrink.found}: mflux has changed")
        return self.source_to_code(tree, self.path)


class Finder(MetaPathFinder):
    """Finds the modules with sizes as ever, and loads them small."""

    def find_spec(self, name, path, target=None):
        package, _, module = name.rpartition(".")
        if package != PACKAGE or module not in SIZES:
            return None
        place = importlib.machinery.PathFinder.find_spec(name, path).origin
        return importlib.util.spec_from_file_location(name, place, loader=SmallLoader(name, place))


sys.meta_path.insert(0, Finder())
