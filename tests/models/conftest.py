import pytest
from huggingface_hub import constants

from tests.miniature import cache, sizes


@pytest.fixture(scope="session")
def miniature_files():
    """Every file of the miniature, by its `WeightFile`."""
    return cache.make_files()


@pytest.fixture
def miniature(miniature_files, tmp_path, monkeypatch):
    """A Hub cache that holds the miniature, and no network; DiffusionKit's tables have the miniature's sizes."""
    cache.write_cache(tmp_path / "hub", miniature_files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sizes.shrink(monkeypatch)
    return tmp_path / "hub"
