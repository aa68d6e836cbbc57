"""Local paths are passed to workers through their environment only."""

from taqmlx.planning import configuration, local_paths


def complete(**changes):
    return configuration.complete(changes, configuration.load_schema())


def test_the_embedded_model_needs_no_local_path():
    assert local_paths.list_local_paths(complete()) == {}


def test_every_configured_path_is_passed():
    told = local_paths.list_local_paths(
        complete(
            model="sd3-medium",
            weights_from="/w",
            evaluation_prompts="p.txt",
            inception={"path": "/i.pth", "sha256": "a" * 64},
        )
    )
    assert told == {
        "WORKFLOW_WEIGHTS_FROM": "/w",
        "WORKFLOW_EVALUATION_PROMPTS": "p.txt",
        "WORKFLOW_INCEPTION": "/i.pth",
    }


def test_the_environment_has_priority_over_the_name_in_the_parameters(monkeypatch):
    named = {"path": "i.pth", "sha256": "ab"}
    assert local_paths.find_local_path("inception", named) == named
    monkeypatch.setenv("WORKFLOW_INCEPTION", "/home/me/i.pth")
    assert local_paths.find_local_path("inception", named) == {"path": "/home/me/i.pth", "sha256": "ab"}
    monkeypatch.setenv("WORKFLOW_CLIP", "/home/me/clip")
    assert local_paths.find_local_path("clip", "clip") == "/home/me/clip"
