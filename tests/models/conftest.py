import pytest

from tools.miniature import cache


@pytest.fixture(scope="session")
def miniature_files():
    """Every file of the miniature, by its `WeightFile`."""
    return cache.make_files()


@pytest.fixture
def miniature(miniature_files, tmp_path, monkeypatch):
    """A Hub cache that holds the miniature, and no network; DiffusionKit's tables have the miniature's sizes."""
    cache.install(tmp_path / "hub", miniature_files, monkeypatch)
    return tmp_path / "hub"
