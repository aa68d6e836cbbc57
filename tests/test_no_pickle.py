"""Nothing in the repository executes what it reads: no pickle, no evaluated text, no unquoted shell."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

PICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "pandas",
}
# calls by the end of their dotted name
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp", "pty.spawn"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "np.fromregex", "runpy.run_path"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "torch.jit.load", "torch.hub.load"),
}
ALLOWED = {"re.compile", "torch.compile", "mx.compile"}
MODULES = [
    path
    for folder in ("taqmlx", "workflow_scripts", "compat", "tools", "tests", "docs", "profiles")
    for path in sorted(Path(folder).rglob("*.py"))
    if path.name != Path(__file__).name
]
RULES = [Path("Snakefile"), *sorted(Path("rules").glob("*.smk"))]


def name(node: ast.AST) -> str:
    """`a.b.c` of an expression like it, otherwise its last part."""
    if isinstance(node, ast.Attribute):
        return f"{name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def find_faults(source: str) -> list[str]:
    """What in a module could run what is read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {module}" for module in modules if module.split(".")[0] in PICKLING]
        if isinstance(node, ast.Call):
            found += check_call(node)
    return found


def check_call(node: ast.Call) -> list[str]:
    """What one call could do."""
    called, given = name(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    constants = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
    faults = [
        f"calls {called}"
        for bad in FORBIDDEN
        if called not in ALLOWED and (called == bad or (called.endswith(f".{bad}") and "." in bad))
    ]
    if constants.get("shell"):
        faults.append(f"{called} with a shell")
    if "allow_pickle" in given and constants.get("allow_pickle") is not False:
        faults.append(f"{called} allows pickles")
    if called == "torch.load" and constants.get("weights_only") is not True:
        faults.append("torch.load of more than weights")
    if (
        called.endswith("from_pretrained")
        and "local_files_only" in given
        and constants.get("use_safetensors") is not True
    ):
        faults.append(f"{called} of other files than safetensors")
    if "trust_remote_code" in given:
        faults.append(f"{called} trusts code")
    return faults


def test_no_module_executes_what_it_reads():
    found = {str(path): find_faults(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {path: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize("path", RULES, ids=str)
def test_rules_quote_values_from_files_and_configurations(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(eval|exec|pickle|os\.system|script:|notebook:)\b", text)
    shells = re.findall(r"shell:\n((?:\s+\"[^\n]*\n)+)", text)
    # Wildcards need no quotes: their constraints allow letters, digits, _ and - only.
    for place in re.findall(r"{([^{}]+)}", "".join(shells)):
        assert place.startswith("wildcards.") or place == "threads" or place.endswith(":q"), place


def test_every_shell_command_is_checked():
    text = "".join(path.read_text(encoding="utf-8") for path in RULES)
    assert len(re.findall(r"shell:\n(?:\s+\"[^\n]*\n)+", text)) == len(re.findall(r"^\s+shell:", text, re.MULTILINE))


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "import a, joblib.x", "eval(x)", "os.system(x)", "yaml.load(x)"),
        *("subprocess.run(x, shell=True)", "np.load(x, allow_pickle=True)", "torch.load(x)", "exec(x)"),
        *("torch.load(x, weights_only=False)", "a.b.os.popen(x)", "compile(x, 'x', 'exec')"),
        "Model.from_pretrained(x, local_files_only=True)",
    ],
)
def test_forbidden_code_is_found(source):
    assert len(find_faults(source)) >= 1


@pytest.mark.parametrize(
    "source", ["re.compile(x)", "mx.eval(x)", "module.eval()", "yaml.safe_load(x)", "np.load(x, allow_pickle=False)"]
)
def test_allowed_code_is_accepted(source):
    assert not find_faults(source)


def test_no_file_of_the_repository_is_a_pickle():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False).stdout.split("\n")
    names = listed if len(listed) > 1 else [str(path) for path in Path("taqmlx").rglob("*")]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"))]
