"""fp32 products on a GPU are not in TF32 unless the environment says so."""

import subprocess
import sys

import pytest

from taqmlx.store import products

SCRIPT = "import taqmlx, os; from taqmlx.store.products import name_products; print(os.environ[{!r}], name_products())"


@pytest.mark.parametrize(("given", "said"), [(None, "0 fp32"), ("0", "0 fp32"), ("1", "1 TF32 allowed")])
def test_the_package_forbids_tf32_before_mlx_starts_unless_it_is_asked_for(monkeypatch, given, said):
    monkeypatch.delenv(products.VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(products.VARIABLE, given)
    command = [sys.executable, "-c", SCRIPT.format(products.VARIABLE)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == said
